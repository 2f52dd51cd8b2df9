"""Programs from elsewhere, chat templates and grammars: each runs in a process of its own."""

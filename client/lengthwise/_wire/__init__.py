"""Values ⇄ messages: the one place of the client that knows both sides."""

"""A page for people: a chat, what became of its last request, and the cluster now."""

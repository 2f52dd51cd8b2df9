"""Whether the router takes a request now, and which waiting one is next."""

"""Published results beside those of the simulator; docs/reproduction.md discusses them."""

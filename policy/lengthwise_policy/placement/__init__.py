"""Which workers serve a request: one strategy per file, and what all of them share."""

"""One part each, timed alone."""

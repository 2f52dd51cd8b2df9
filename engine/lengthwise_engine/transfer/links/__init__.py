"""The two ends of a link and the ways bytes cross it."""

"""The engine thread: one step after the other, and what leaves it."""

"""What an answer's text says beside its words: calls of functions, and reasoning."""

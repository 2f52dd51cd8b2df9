"""The process that evaluates a mode of a model, and what a worker does with its records."""

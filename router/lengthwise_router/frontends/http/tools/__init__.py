"""Functions that a model may call: as they are asked for, and as calls are told."""

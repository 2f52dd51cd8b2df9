"""What decisions cost, without a model."""

"""What an approximate mode of a model costs: measured beside the full model, recorded, held to
bounds (docs/models.md)."""

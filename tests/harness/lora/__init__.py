"""LoRA adapters, and what they make of models."""

"""LoRA adapters beside a decoder's weights: many of them in one batch."""

"""Decoder-only transformers: their specification, weights and computation."""

"""Attention over the paged KV cache: the kernels, and the plan of a step that launches them."""

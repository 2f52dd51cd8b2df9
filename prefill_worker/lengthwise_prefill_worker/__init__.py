"""Computes prompts in length-aware batches and pushes their KV cache to decode workers."""

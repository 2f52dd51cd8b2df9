"""What a prefill worker computes next."""

"""KV blocks: which are free, which keep their content for reuse, and which worker holds which."""

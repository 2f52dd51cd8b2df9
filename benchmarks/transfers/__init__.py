"""How KV moves from worker to worker."""

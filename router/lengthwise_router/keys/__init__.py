"""API keys: who may call, as which tenant, and how much."""

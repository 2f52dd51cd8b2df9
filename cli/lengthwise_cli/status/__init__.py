"""What the routers of a deployment tell of it."""

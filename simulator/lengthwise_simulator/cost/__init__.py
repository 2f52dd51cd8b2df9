"""What a step takes, on which GPUs, of which model: measured, published or calculated."""

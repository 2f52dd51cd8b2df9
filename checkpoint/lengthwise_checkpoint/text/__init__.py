"""What stands beside tokenizer.json: its special tokens, its class, the chat template."""

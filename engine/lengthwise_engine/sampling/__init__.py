"""What a token depends on besides the logits of its step."""

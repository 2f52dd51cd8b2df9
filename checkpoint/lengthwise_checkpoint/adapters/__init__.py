"""What the files of a LoRA adapter say, as PEFT writes them."""

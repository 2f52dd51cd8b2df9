"""`lengthwise evaluate`: what an approximate mode of a model costs."""

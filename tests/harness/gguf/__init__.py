"""Models of architectures that transformers computes, and how far ours are from them."""

"""The workers as a router sees them, live, and its streams to them."""

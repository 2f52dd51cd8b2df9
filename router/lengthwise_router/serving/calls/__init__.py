"""A caller's call: what is counted and told of it, and the samples that one may ask for."""

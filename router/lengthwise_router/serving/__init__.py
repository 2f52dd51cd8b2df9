"""The life of a request: admission, placement, attempts, the reply."""

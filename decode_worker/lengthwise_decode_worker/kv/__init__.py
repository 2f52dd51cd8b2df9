"""KV on its way from prefill workers: links, and when a request is whole."""

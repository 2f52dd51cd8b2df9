"""KV on its way to decode workers: pieces, links, and what becomes of each request's."""

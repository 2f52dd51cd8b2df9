"""A worker that can change its role: the prefill and the decode worker over one engine, in turn."""

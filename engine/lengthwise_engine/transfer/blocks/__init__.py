"""Blocks of KV caches as bytes, by where the caches lie."""

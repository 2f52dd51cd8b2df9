"""Receives KV caches and continues their requests in one continuous batch, token by token."""

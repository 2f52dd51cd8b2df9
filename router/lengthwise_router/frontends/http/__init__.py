"""Clients that speak HTTP as OpenAI's API does."""

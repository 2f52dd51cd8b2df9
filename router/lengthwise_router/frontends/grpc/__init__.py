"""Clients that speak gRPC."""

"""Certificates: which files, what they permit, and what gRPC is given of them."""

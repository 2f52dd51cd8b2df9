"""The router's faces, gRPC and HTTP, beside those of others."""

"""The gRPC transports of both clients."""

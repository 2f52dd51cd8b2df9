"""What every Lengthwise process needs: configuration, gRPC server and channels, threads, metrics,
logs.

Knows nothing of torch and decides nothing: decisions are lengthwise_policy's.
"""

from lengthwise_wire.v1.prefill_pb2_grpc import *  # noqa: F403

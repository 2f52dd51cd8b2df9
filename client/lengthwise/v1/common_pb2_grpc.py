from lengthwise_wire.v1.common_pb2_grpc import *  # noqa: F403

from lengthwise_wire.v1.decode_pb2_grpc import *  # noqa: F403

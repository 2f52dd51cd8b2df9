from lengthwise_wire.v1.inference_pb2_grpc import *  # noqa: F403

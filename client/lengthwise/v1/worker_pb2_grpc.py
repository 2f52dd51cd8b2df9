from lengthwise_wire.v1.worker_pb2_grpc import *  # noqa: F403

from lengthwise_wire.v1.worker_pb2 import *  # noqa: F403

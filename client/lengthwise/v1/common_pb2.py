from lengthwise_wire.v1.common_pb2 import *  # noqa: F403

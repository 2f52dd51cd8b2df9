from lengthwise_wire.v1.decode_pb2 import *  # noqa: F403

from lengthwise_wire.v1.inference_pb2 import *  # noqa: F403

from lengthwise_wire.v1.prefill_pb2 import *  # noqa: F403

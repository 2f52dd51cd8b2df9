"""What workers of some versions can do and older ones cannot.

proto3 drops fields that a receiver does not know, silently: an older worker would ignore them and
answer wrongly. So workers report the names of this table, and a router sends a request only to
workers that report all it needs.
"""

from collections.abc import Callable, Mapping

from lengthwise_wire.v1 import common_pb2

CAPABILITIES: Mapping[str, Callable[[common_pb2.SamplingParams], bool]] = {
    "min_tokens": lambda sampling: sampling.min_tokens > 0,
    "logit_bias": lambda sampling: len(sampling.logit_bias) > 0,
}
"""Name -> whether a request with these sampling parameters needs it. Names are never changed."""


def needed_capabilities(sampling: common_pb2.SamplingParams) -> frozenset[str]:
    return frozenset(name for name, is_needed in CAPABILITIES.items() if is_needed(sampling))

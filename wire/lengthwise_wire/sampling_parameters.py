"""The sampling parameters of a request: the fields of SamplingParams and the values they accept.

SDK, router and conversion go by this table. Neutral values are the defaults of
`lengthwise_policy.sampling.SamplingParameters`, whose fields have the same names.
"""

from collections.abc import Mapping

from lengthwise_wire.ranges import UINT32_MAX, UINT64_MAX, PerToken, Range, Real, Whole
from lengthwise_wire.v1 import common_pb2

_FIRST_PARAMETERS: Mapping[str, Range] = {
    "temperature": Real(0, 100),
    "top_k": Whole(0, UINT32_MAX),
    "top_p": Real(0, 1, above=True),
    "min_p": Real(0, 1),
    # Beyond them logits of some thousands would leave float32.
    "repetition_penalty": Real(0.001, 1000),
    "presence_penalty": Real(-2, 2),
    "frequency_penalty": Real(-2, 2),
    "seed": Whole(0, UINT64_MAX),
}

LATER_PARAMETERS: Mapping[str, Range] = {
    "min_tokens": Whole(0, UINT32_MAX),
    "logit_bias": PerToken(Real(-100, 100), most=300),
}
"""Those that workers of the first version do not know: each is a capability of the same name."""

SAMPLING_PARAMETERS = {**_FIRST_PARAMETERS, **LATER_PARAMETERS}


def check_sampling(params: common_pb2.SamplingParams) -> None:
    """What came over the wire. Errors: InvalidRequest."""
    for field, value in params.ListFields():
        SAMPLING_PARAMETERS[field.name].check(f"sampling.{field.name}", value)

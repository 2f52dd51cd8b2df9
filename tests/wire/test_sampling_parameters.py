"""One table of sampling parameters, the same for message, policy, SDK and conversion."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import pytest

from lengthwise.types import Options, Sampling
from lengthwise_policy.sampling import SamplingParameters
from lengthwise_wire.capabilities import needed_capabilities
from lengthwise_wire.convert import sampling_from_wire, sampling_to_wire
from lengthwise_wire.errors import InvalidRequest
from lengthwise_wire.ranges import PerToken, Range, Real, Whole
from lengthwise_wire.sampling_parameters import LATER_PARAMETERS, SAMPLING_PARAMETERS
from lengthwise_wire.v1 import common_pb2, decode_pb2, prefill_pb2

RESOLVED = {"top_logprobs", "stop_token_ids", "grammar", "may_change_logits"}
"""What the policy's value has beside the fields of SamplingParams."""


def test_every_parameter_is_known_everywhere_by_one_name() -> None:
    names = set(SAMPLING_PARAMETERS)
    assert names == set(common_pb2.SamplingParams.DESCRIPTOR.fields_by_name)
    assert names == {field.name for field in fields(SamplingParameters)} - RESOLVED
    assert names <= set(Options.__annotations__)
    assert {field.name for field in fields(Sampling)} <= names


@pytest.mark.parametrize("name", SAMPLING_PARAMETERS)
def test_neutral_values_are_accepted(name: str) -> None:
    neutral = getattr(SamplingParameters(), name)
    assert SAMPLING_PARAMETERS[name].check(name, neutral) == neutral


@pytest.mark.parametrize("message", [prefill_pb2.PrefillRequest, decode_pb2.ReserveRequest])
def test_what_a_worker_reads_is_what_the_router_wrote(message: Any) -> None:
    sampling = SamplingParameters(
        temperature=0.5,
        top_k=3,
        top_p=0.25,
        min_p=0.125,
        repetition_penalty=1.5,
        presence_penalty=-1.0,
        frequency_penalty=2.0,
        seed=2**64 - 1,
        min_tokens=7,
        logit_bias={0: -100.0, 5: 0.25},
        top_logprobs=0,
        stop_token_ids=frozenset({3, 9}),
        grammar="some",
    )
    assert all(
        getattr(sampling, field.name) != getattr(SamplingParameters(), field.name)
        for field in fields(SamplingParameters)
    )
    request = message(
        sampling=sampling_to_wire(sampling),
        top_logprobs=0,
        stop_token_ids=sampling.stop_token_ids,
        grammar="some",
    )
    assert sampling_from_wire(message.FromString(request.SerializeToString())) == sampling


def test_a_request_needs_what_it_sets() -> None:
    assert needed_capabilities(sampling_to_wire(SamplingParameters())) == frozenset()
    values: Mapping[str, Any] = {"min_tokens": 1, "logit_bias": {4: 1.0}}
    assert set(values) == set(LATER_PARAMETERS)
    for name, value in values.items():
        sampling = SamplingParameters(**{name: value})
        assert needed_capabilities(sampling_to_wire(sampling)) == {name}


@pytest.mark.parametrize(
    ("accepted", "value", "message"),
    [
        (Real(0, 1), -0.1, r"got -0.1, expected a number in [0, 1]"),
        (Real(0, 1, above=True), 0, "got 0, expected a number in (0, 1]"),
        (Real(0, float("inf")), float("nan"), "got nan, expected a finite number of at least 0"),
        (Real(0, 1), 1.100000023841858, "got 1.1, expected a number in [0, 1]"),
        (Whole(1, 3), 4, "got 4, expected an integer in [1, 3]"),
        (Whole(1, 3), True, "got True, expected an integer in [1, 3]"),
        (PerToken(Real(-1, 1), most=1), {1: 0, 2: 0}, "got 2 entries, expected at most 1"),
        (PerToken(Real(-1, 1), most=1), [1], "got list, expected a mapping of token ids to"),
    ],
    ids=str,
)
def test_a_refusal_names_field_value_and_range(
    accepted: Range, value: object, message: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        accepted.check("field", value)
    assert str(caught.value).startswith(f"field: {message}")

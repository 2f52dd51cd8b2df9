"""The policies' configurations as the configuration file meets them: through pydantic."""

from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from lengthwise_policy.admission.admission import AdmissionPolicy
from lengthwise_policy.decode.policy import DecodePolicy, PastFuturePolicy
from lengthwise_policy.prefill.policy import PrefillPolicy

POLICIES = [PrefillPolicy, DecodePolicy, PastFuturePolicy, AdmissionPolicy]


@pytest.mark.parametrize("policy", POLICIES)
def test_every_field_has_a_default(policy: Any) -> None:
    assert TypeAdapter(policy).validate_python({}) == policy()


@pytest.mark.parametrize("policy", POLICIES)
def test_an_unknown_key_is_refused(policy: Any) -> None:
    with pytest.raises(ValidationError, match="chunk_token"):
        TypeAdapter(policy).validate_python({"chunk_token": 1})


@pytest.mark.parametrize(
    ("policy", "values", "message"),
    [
        (PrefillPolicy, {"chunk_tokens": 0}, "chunk_tokens: expected at least 1, got 0"),
        (PrefillPolicy, {"max_batch_requests": 0}, "max_batch_requests: expected at least 1"),
        (PrefillPolicy, {"queue_limit": 0}, "queue_limit: expected at least 1"),
        (PrefillPolicy, {"max_wait_seconds": -1.0}, "max_wait_seconds: expected at least 0"),
        (PrefillPolicy, {"short_share": 0.0}, "short_share: expected at least 0.001, got 0.0"),
        (PrefillPolicy, {"short_share": 0.8}, "expected at most 1 together, got 0.8 and 0.3"),
        (PrefillPolicy, {"graph_lengths": (16, 8)}, "graph_lengths: expected growing sizes"),
        (PrefillPolicy, {"discipline": "lifo"}, "length_aware"),
        (DecodePolicy, {"max_running": 0}, "max_running: expected at least 1"),
        (DecodePolicy, {"queue_limit": 0}, "queue_limit: expected at least 1"),
        (AdmissionPolicy, {"max_requests_in_flight": 0}, "max_requests_in_flight: expected"),
        (AdmissionPolicy, {"max_prompt_tokens": 0}, "max_prompt_tokens: expected at least 1"),
        (AdmissionPolicy, {"max_queued": -1}, "max_queued: expected at least 0, got -1"),
        (AdmissionPolicy, {"shed_factor": -0.5}, "shed_factor: expected at least 0"),
        (AdmissionPolicy, {"min_retry_after_seconds": -1.0}, "min_retry_after_seconds: expected"),
        (AdmissionPolicy, {"min_retry_after_seconds": float("nan")}, "got nan"),
        (
            AdmissionPolicy,
            {"min_retry_after_seconds": 2.0, "max_retry_after_seconds": 1.0},
            "max_retry_after_seconds .not below min_retry_after_seconds.: expected at least 2.0",
        ),
    ],
)
def test_a_value_out_of_range_is_refused_by_name(
    policy: Any, values: dict[str, float], message: str
) -> None:
    with pytest.raises(ValidationError, match=message):
        TypeAdapter(policy).validate_python(values)

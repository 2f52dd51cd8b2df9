"""Records of requests hold what was decided and reported, and stay small."""

from itertools import pairwise
from typing import cast

from router.generations import placement

from lengthwise_policy.placement.blame import NO_BLAME
from lengthwise_router.serving.failures import AttemptFailed
from lengthwise_router.serving.records import (
    MAX_ATTEMPTS,
    MAX_CANDIDATES,
    MAX_TEXT_CHARACTERS,
    RequestRecord,
    RequestRecords,
)
from lengthwise_runtime.tracing.tracer import TracedSpan
from lengthwise_wire.errors import NoWorkerAvailable
from lengthwise_wire.v1 import decode_pb2, inference_pb2, prefill_pb2


def record(request_id: str = "r1", prompt_tokens: int = 1000) -> RequestRecord:
    life = RequestRecord(request_id=request_id, tenant="", model="stub", priority=0)
    life.measured(prompt_tokens, 10, "long")
    return life


def failure(text: str) -> AttemptFailed:
    return AttemptFailed(
        phase="prefill", reason="timeout", error=NoWorkerAvailable(text), blame=NO_BLAME
    )


def test_candidates_are_recorded_with_what_was_predicted() -> None:
    life = record()
    life.placed(placement(100, 900))
    (attempt,) = life.explanation().attempts
    assert [candidate.prefill_worker for candidate in attempt.candidates] == ["p1", "p2"]
    assert attempt.candidates[0].residual_tokens == 100
    assert attempt.candidates[0].time_to_first_token_seconds == 3.5


def test_an_attempt_is_recorded_with_what_its_workers_reported() -> None:
    life = record()
    life.placed(placement(100))
    life.reserved(0.1, decode_pb2.ReserveResponse(num_cached_tokens=64, reason="room"))
    life.prefilled(prefill_pb2.PrefillResponse(num_cached_tokens=960, reason="window"))
    life.placed(placement(16))
    life.prefilled(decode_pb2.LocalPrefill(num_cached_tokens=992, reason="step"))
    first, second = life.explanation().attempts
    assert (first.cached_tokens_prefill, first.cached_tokens_decode) == (960, 64)
    assert (first.reserve_reason, first.prefill_reason) == ("room", "window")
    assert (second.cached_tokens_decode, second.prefill_reason) == (992, "step")


def phases_of(life: RequestRecord) -> list[tuple[str, str]]:
    """Names and errors; each begins where the one before it ends."""
    found = [phase for phase, _ in life.take_phases()]
    for before, after in pairwise(found):
        assert before.ended_at == after.began_at
    assert not list(life.take_phases()), "they are not kept"
    return [(phase.name, phase.error.partition(":")[0]) for phase in found]


def traced() -> RequestRecord:
    span = cast(TracedSpan, object())
    life = RequestRecord(request_id="r1", tenant="", model="stub", priority=0, span=span)
    life.measured(1000, 10, "long")
    life.admission("waits", 0.0)
    life.admission("admitted", 0.1)
    return life


def test_phases_of_a_traced_request_follow_each_other_over_all_attempts() -> None:
    life = traced()
    life.placed(placement(100))
    life.reserved(0.1, decode_pb2.ReserveResponse())
    life.failed(failure("gone"))
    life.placed(placement(16))
    life.reserved(0.1, decode_pb2.ReserveResponse())
    life.prefilled(prefill_pb2.PrefillResponse())
    life.transferred(0.25)
    life.ended("OK", 1.0)
    assert phases_of(life) == [
        ("tokenise", ""), ("queue", ""),
        ("placement", ""), ("reserve", ""), ("prefill", "prefill"),
        ("placement", ""), ("reserve", ""), ("prefill", ""), ("transfer", ""), ("decode", ""),
    ]  # fmt: skip


def test_the_phase_in_which_a_traced_request_ends_has_the_error() -> None:
    life = traced()
    life.ended("CANCELLED", 1.0)
    assert phases_of(life)[-1] == ("placement", "CANCELLED")
    life = traced()
    life.placed(placement(100))
    life.ended("DEADLINE_EXCEEDED", 1.0)
    assert phases_of(life)[-1] == ("reserve", "DEADLINE_EXCEEDED")
    life = RequestRecord(
        request_id="r", tenant="", model="m", priority=0, span=cast(TracedSpan, object())
    )
    life.ended("INVALID_ARGUMENT", 1.0)
    assert phases_of(life) == [("tokenise", "INVALID_ARGUMENT")]


def test_phases_of_a_traced_request_are_bounded_as_its_attempts_are() -> None:
    life = traced()
    for _ in range(100):
        life.placed(placement(100))
        life.failed(failure("gone"))
    life.ended("UNAVAILABLE", 1.0)
    assert len(list(life.take_phases())) <= 2 + 2 * MAX_ATTEMPTS + 1


def test_preemptions_are_counted() -> None:
    life = record()
    life.placed(placement(100))
    life.preempted()
    life.preempted()
    timings = inference_pb2.PhaseTimings(total_seconds=2.0)
    life.timed(timings, output_tokens=10, cached_prompt_tokens=0)
    assert not life.explanation().HasField("end"), "it has not ended yet"
    life.ended("OK", 3.0)
    assert life.explanation().end.preemptions == 2
    assert life.explanation().end.timings.total_seconds == 2.0


def test_whatever_happens_a_life_is_short() -> None:
    life = record()
    for number in range(100):
        life.placed(placement(*range(1, 100)))
        life.reserved(0.1, decode_pb2.ReserveResponse(reason="r" * 10_000))
        life.prefilled(prefill_pb2.PrefillResponse(reason="r" * 10_000))
        life.failed(failure(f"{number} " + "x" * 10_000))
    message = life.explanation()
    assert len(message.attempts) == MAX_ATTEMPTS
    assert message.attempts[0].failure.startswith("prefill: timeout: 0 ")
    assert message.attempts[-1].failure.startswith("prefill: timeout: 99 ")
    assert len(message.attempts[0].candidates) == MAX_CANDIDATES
    per_attempt = 3 * (MAX_TEXT_CHARACTERS + 10) + MAX_CANDIDATES * 64
    assert message.ByteSize() < MAX_ATTEMPTS * (per_attempt + 100)


def test_none_are_kept_where_none_are_wanted() -> None:
    kept = RequestRecords(0)
    kept.add(record())
    assert kept.find("", "stub", "r1") is None

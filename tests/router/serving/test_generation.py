"""What a generation knows of its prompt, and which tokens it takes."""

import pytest
from router.generations import make_generation, placement

from lengthwise_router.serving.generation import WrongEnd
from lengthwise_wire.v1 import common_pb2, decode_pb2, prefill_pb2

STOP, LENGTH = common_pb2.FINISH_REASON_STOP, common_pb2.FINISH_REASON_LENGTH


def test_the_length_class_is_that_of_the_first_attempts_residual_tokens() -> None:
    generation = make_generation(prompt_ids=[1] * 1000)
    classes = [generation.length_class]
    generation.placed(placement(100, 900))
    classes.append(generation.length_class)
    generation.prefilled(prefill_pb2.PrefillResponse(length_class="long"))
    classes.append(generation.length_class)
    generation.timings.retries += 1
    generation.placed(placement(100))
    classes.append(generation.length_class)
    assert classes == ["long", "short", "long", "long"]
    assert generation.record.explanation().length_class == "long"


def test_what_the_first_token_found_cached_is_reused_prompt() -> None:
    generation = make_generation(prompt_ids=[1] * 1000)
    assert generation.cached_prompt_tokens is None
    generation.placed(placement(100))
    generation.prefilled(prefill_pb2.PrefillResponse(num_cached_tokens=960))
    generation.timings.retries += 1
    generation.placed(placement(16))
    generation.prefilled(decode_pb2.LocalPrefill(num_cached_tokens=992))
    assert generation.cached_prompt_tokens == 960


def test_times_of_all_attempts_are_summed() -> None:
    generation = make_generation()
    for _ in range(2):
        generation.placed(placement(8))
        generation.reserved(0.25, decode_pb2.ReserveResponse())
        report = prefill_pb2.PrefillResponse(queue_seconds=0.5, prefill_seconds=1.0)
        generation.prefilled(report)
    timings = generation.timings
    assert (timings.reserve_seconds, timings.queue_seconds, timings.prefill_seconds) == (0.5, 1, 2)


@pytest.mark.parametrize(
    ("token_ids", "ended"),
    [
        pytest.param([5, 6, 7, 8, 9], None, id="more than asked for"),
        pytest.param([5, 6], LENGTH, id="too early"),
        pytest.param([5, 6, 7, 8], STOP, id="no stop token"),
        pytest.param([5, 3], LENGTH, id="a stop token that is not one"),
    ],
)
def test_tokens_that_cannot_be_all_are_not_taken(
    token_ids: list[int], ended: common_pb2.FinishReason | None
) -> None:
    generation = make_generation(max_tokens=4, stop_token_ids=(3,))
    with pytest.raises(WrongEnd):
        generation.append(token_ids, [], ended)
    assert generation.num_generated == 0
    assert generation.append([5, 3], [], STOP).finish_reason == STOP

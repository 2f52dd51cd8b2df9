"""Conditional disaggregation: when a decode worker computes the prompt itself, and when not."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from policy.placement.views import (
    COST,
    asking,
    cached,
    decode,
    excluded,
    large,
    pair,
    prefill,
    request,
)

from lengthwise_policy.cost.model import PRIOR, CostModel
from lengthwise_policy.errors import NoCandidates
from lengthwise_policy.objectives import Objectives
from lengthwise_policy.placement.local_prefill import local_candidate
from lengthwise_policy.placement.placement import Placement, PlacementRequest
from lengthwise_policy.placement.policy import PlacementPolicy
from lengthwise_policy.placement.strategies import STRATEGIES, make_strategy
from lengthwise_policy.placement.worker_view import WorkerView
from lengthwise_policy.types import STEP_TOKENS, WorkerId

SLO = 0.1


def place(
    asked: PlacementRequest,
    prefills: list[WorkerView],
    decodes: list[WorkerView],
    *,
    strategy: str = "predicted_ttft",
    slo: float = SLO,
    ttft: float = 0.4,
) -> Placement:
    policy = PlacementPolicy(objectives=Objectives(ttft_short_seconds=ttft, tpot_seconds=slo))
    return make_strategy(strategy, policy, lambda: 0.0)(asking(asked, prefills, decodes, 0.0))


def rule(placement: Placement) -> str:
    assert placement.reason.startswith(f"{placement.rule}: ")
    return placement.rule


def test_a_turn_whose_prefix_only_the_decode_worker_holds_is_computed_there() -> None:
    asked = request(num_tokens=4000, cached_tokens=cached(d2=3968))
    decodes = [large(decode("d1")), large(decode("d2"), running_requests=12, context_tokens=5000)]
    placement = place(asked, [large(prefill("p1"))], decodes)
    assert pair(placement) == (None, "d2")
    assert rule(placement) == "local prefill"
    local, remote = placement.candidates
    assert (local.prefill, local.decode, local.residual_tokens) == (None, "d2", 32)
    assert remote.prefill == "p1"
    assert local.ttft_seconds < remote.ttft_seconds


def test_a_very_short_prompt_is_computed_locally_where_the_transfer_costs_more() -> None:
    asked = request(num_tokens=10)
    prefills, decodes = [large(prefill("p1"))], [large(decode("d1"))]
    assert pair(place(asked, prefills, decodes)) == (None, "d1")
    idle = [large(prefill("p1"), kv_bytes_per_second=0.0)]
    placement = place(asked, idle, decodes)
    assert pair(placement) == ("p1", "d1"), "equally soon: the decode worker is left alone"
    assert {predicted.prefill for predicted in placement.candidates} == {"p1", None}


def test_a_busy_decode_worker_leaves_prompts_to_the_prefill_workers() -> None:
    decodes = [large(decode("d1"), running_requests=40)]
    assert pair(place(request(num_tokens=10), [large(prefill("p1"))], decodes)) == ("p1", "d1")
    queue = [large(prefill("p1"), queued_tokens=3000, queued_short_tokens=3000)]
    assert pair(place(request(num_tokens=10), queue, decodes)) == (None, "d1")


def test_no_running_request_misses_its_slo_for_a_prompt() -> None:
    queue = [large(prefill("p1"), queued_tokens=90_000, queued_short_tokens=90_000)]
    decodes = [large(decode("d1"), running_requests=40)]
    asked = request(num_tokens=200)
    assert rule(place(asked, queue, decodes)) == "local prefill"
    # A step of 40 requests takes 50 ms; a block of the prompt 1.6 ms more.
    assert rule(place(asked, queue, decodes, slo=0.0525)) == "local prefill"
    assert rule(place(asked, queue, decodes, slo=0.051)) == "predicted ttft"


def test_a_prompt_is_computed_locally_only_for_more_than_it_costs_the_others() -> None:
    """200 tokens take 10 ms, which each of the requests that decode there would wait."""
    asked = request(num_tokens=200)
    queue = [large(prefill("p1"), queued_tokens=4000, queued_short_tokens=4000)]  # 0.3 s
    few = place(asked, queue, [large(decode("d1"), running_requests=10)], ttft=2.0)
    assert rule(few) == "local prefill"
    assert "imposed on others" in few.reason
    many = place(asked, queue, [large(decode("d1"), running_requests=40)], ttft=2.0)
    assert rule(many) == "predicted ttft"


def test_a_first_token_at_risk_counts_more_than_delays_that_miss_no_objective() -> None:
    """The objective is 0.4 s. 40 requests would wait 10 ms each, in steps of 60 ms."""
    asked, decodes = request(num_tokens=200), [large(decode("d1"), running_requests=40)]

    def queue(num_tokens: int) -> list[WorkerView]:
        return [large(prefill("p1"), queued_tokens=num_tokens, queued_short_tokens=num_tokens)]

    saved = place(asked, queue(2000), decodes)
    assert rule(saved) == "local prefill"
    assert "at risk" in saved.reason
    assert rule(place(asked, queue(700), decodes)) == "predicted ttft", "met by far"
    assert rule(place(asked, queue(2000), decodes, slo=0.055)) == "predicted ttft", "TPOT"
    behind = [large(decodes[0], outstanding_local_tokens=2000)]
    assert rule(place(asked, queue(4500), behind)) == "predicted ttft", "missed here too"


def test_prompts_placed_there_already_are_waited_for() -> None:
    burst = large(decode("d1"), outstanding_local_tokens=5_000)
    assert pair(place(request(num_tokens=10), [large(prefill("p1"))], [burst])) == ("p1", "d1")


def test_an_unfitted_decode_worker_is_predicted_at_the_prefill_workers_cost() -> None:
    asked = request(num_tokens=10)
    unfitted = large(decode("d1"), cost=PRIOR, is_fitted=False)
    (local, _) = place(asked, [large(prefill("p1"))], [unfitted]).candidates
    assert local.prefill_seconds == COST.prefill_seconds(10)
    (local, _) = place(
        asked, [large(prefill("p1"), cost=PRIOR, is_fitted=False)], [large(decode("d1"))]
    ).candidates
    assert local.prefill_seconds == PRIOR.prefill_seconds(10), "never one measured and one assumed"


def test_the_chunks_of_a_long_prompt_fit_the_slo() -> None:
    view = large(decode("d1"), running_requests=10)
    asked = request(num_tokens=1000)
    # 20 ms for the requests leave 80 ms: the budget of 512 tokens is what limits, to 31 blocks.
    predicted = local_candidate(asked, view, COST, 0.1)
    assert predicted is not None
    assert predicted.prefill_seconds == pytest.approx(3 * 0.020 + COST.chunk_seconds(1000))
    # 10 ms are left for about 82 tokens after 1,000: 5 blocks, thirteen times.
    tight = local_candidate(asked, view, COST, 0.03)
    assert tight is not None
    assert tight.prefill_seconds == pytest.approx(13 * 0.020 + COST.chunk_seconds(1000))


@pytest.mark.parametrize("name", STRATEGIES)
def test_without_prefill_workers_every_strategy_falls_back(name: str) -> None:
    decodes = [decode("d1", running_requests=1), decode("d2")]
    placement = place(request(), [prefill("p1", draining=True)], decodes, strategy=name)
    assert pair(placement) == (None, "d2")
    assert placement.reason.startswith("no prefill worker: ")
    assert "of 1 known, 1 drain" in placement.reason
    assert pair(place(request(max_new_tokens=1), [], decodes, strategy=name)) == (None, "d2")


def test_without_prefill_workers_prompts_go_where_they_are_computed_soonest() -> None:
    """Not where the next step is shortest: prompts that wait there take far longer."""
    busy = large(decode("d1"), outstanding_local_tokens=4000)
    decodes = [busy, large(decode("d2"), running_requests=8, context_tokens=800)]
    placement = place(request(num_tokens=500), [], decodes)
    assert pair(placement) == (None, "d2")
    assert [each.decode for each in placement.candidates] == ["d2", "d1"]


def test_without_prefill_workers_a_cached_prefix_weighs_as_much_as_it_saves() -> None:
    asked = request(num_tokens=4000, cached_tokens=cached(d2=3968))
    holder = large(decode("d2"), running_requests=12, context_tokens=5000)
    assert pair(place(asked, [], [large(decode("d1")), holder])) == (None, "d2")
    crowded = replace(holder, outstanding_local_tokens=50_000)
    assert pair(place(asked, [], [large(decode("d1")), crowded])) == (None, "d1")


def test_without_prefill_workers_a_full_decode_worker_comes_last() -> None:
    full = large(decode("d1"), blocks_free=0)
    busy = large(decode("d2"), running_requests=30, context_tokens=3000)
    assert pair(place(request(), [], [full, busy])) == (None, "d2")


def test_a_decode_worker_that_knows_no_prompts_is_taken_for_one_of_its_peers() -> None:
    """By the prior alone a newcomer among slow workers would get every prompt."""
    slow = replace(COST, step_seconds=0.1, token_seconds=0.01)
    decodes = [large(decode("d1"), cost=slow), large(decode("d2"), is_fitted=False, cost=PRIOR)]
    busy = replace(decodes[1], outstanding_local_tokens=100)
    assert pair(place(request(), [], [decodes[0], busy])) == (None, "d1")


def test_the_fallback_needs_no_room_for_the_slo() -> None:
    full = large(decode("d1"), running_requests=500, blocks_free=0)
    assert pair(place(request(), [], [full])) == (None, "d1")


@pytest.mark.parametrize(
    ("asked", "chosen"),
    [
        pytest.param(excluded("p1"), (None, "d1"), id="the only prefill worker failed"),
        pytest.param(excluded("p1", "d1"), (None, "d2"), id="so did a decode worker"),
        pytest.param(excluded("p1", "d1", "d2"), ("p1", "d1"), id="everybody did"),
        pytest.param(
            replace(excluded("p1"), reserved_decode=WorkerId("d2")), (None, "d2"), id="reserved"
        ),
    ],
)
def test_workers_that_failed_the_request_are_the_last_resort(
    asked: PlacementRequest, chosen: tuple[str | None, str]
) -> None:
    assert pair(place(asked, [prefill("p1")], [decode("d1"), decode("d2")])) == chosen


def test_a_decode_worker_that_failed_does_not_compute_for_its_prefix() -> None:
    asked = replace(excluded("d2"), num_tokens=1000, cached_tokens=cached(d2=992))
    placement = place(asked, [large(prefill("p1"))], [large(decode("d1")), large(decode("d2"))])
    assert placement.decode == "d1"


def test_a_reservation_stays_with_the_prefill_workers() -> None:
    asked = request(num_tokens=10, reserved_decode=WorkerId("d1"))
    assert pair(place(asked, [large(prefill("p1"))], [large(decode("d1"))])) == ("p1", "d1")


def test_without_any_worker_the_refusal_is_the_strategys() -> None:
    with pytest.raises(NoCandidates, match="no prefill worker for 100 tokens"):
        place(request(), [], [decode("d1", blocks_total=6)])


def test_local_prefill_can_be_forbidden() -> None:
    strategy = make_strategy("predicted_ttft", PlacementPolicy(local_prefill=False), lambda: 0.0)
    decodes = [large(decode("d1"))]
    asked = request(num_tokens=10)
    assert pair(strategy(asking(asked, [large(prefill("p1"))], decodes, 0.0))) == ("p1", "d1")
    with pytest.raises(NoCandidates):
        strategy(asking(asked, [], decodes, 0.0))


costs = st.builds(
    CostModel,
    step_seconds=st.floats(0, 0.02),
    token_seconds=st.floats(0, 1e-3),
    attention_seconds=st.sampled_from([0.0, 1e-9, 1e-7]),
    history_seconds=st.sampled_from([0.0, 1e-7, 1e-5]),
    decode_request_seconds=st.floats(0, 1e-3),
    decode_context_seconds=st.floats(0, 1e-6),
)


@given(
    num_tokens=st.integers(1, 3000),
    held_blocks=st.integers(0, 180),
    running=st.integers(0, 600),
    context=st.integers(0, 10_000),
    ahead=st.integers(0, 3000),
    cost=costs,
    slo=st.floats(0.005, 0.2),
)
def test_a_local_prefill_never_breaks_the_slo(
    num_tokens: int,
    held_blocks: int,
    running: int,
    context: int,
    ahead: int,
    cost: CostModel,
    slo: float,
) -> None:
    fields: dict[str, Any] = {"running_requests": running, "context_tokens": context}
    view = large(decode("d1"), outstanding_local_tokens=ahead, cost=cost, **fields)
    held = min(16 * held_blocks, (num_tokens - 1) // 16 * 16)
    asked = request(num_tokens=num_tokens, cached_tokens=cached(d1=held))
    predicted = local_candidate(asked, view, cost, slo)
    forced = local_candidate(asked, view, cost, slo, required=True)
    assert forced is not None, "where it is required it always can"
    step = cost.decode_step_seconds(running, context)
    new = num_tokens - held
    smallest = min(new, view.block_size)
    if predicted is None:
        # Not even a block could be computed beside the running requests.
        assert running
        over = step + cost.chunk_seconds(smallest, num_tokens) > slo * (1 - 1e-9)
        assert over or running + smallest > STEP_TOKENS
        return
    assert predicted.residual_tokens == new
    assert predicted == forced
    if running:
        assert step + cost.chunk_seconds(smallest, held) <= slo * (1 + 1e-9)

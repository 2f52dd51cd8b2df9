"""Placement by predicted time to first token: what is predicted, who is chosen by it, and how it
treats prefixes."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from policy.placement.views import COST, asking, cached, decode, large, pair, prefill, request

from lengthwise_policy.cost.model import CostModel
from lengthwise_policy.errors import NoCandidates
from lengthwise_policy.placement.blame import Blame
from lengthwise_policy.placement.candidates import find_candidates
from lengthwise_policy.placement.decode_choice import choose_partner
from lengthwise_policy.placement.placement import Placement, PlacementRequest
from lengthwise_policy.placement.policy import PlacementPolicy
from lengthwise_policy.placement.predicted_ttft import MAX_CANDIDATES, PredictedTtft, candidate
from lengthwise_policy.placement.strategies import STRATEGIES
from lengthwise_policy.placement.worker_view import WorkerView
from lengthwise_policy.spreading import ALONE
from lengthwise_policy.types import STEP_TOKENS, WorkerId

SLO = 0.1


def place(
    asked: PlacementRequest, prefills: list[WorkerView], decodes: list[WorkerView]
) -> Placement:
    return PredictedTtft(SLO)(asking(asked, prefills, decodes, 0.0))


def test_the_terms_of_a_prediction() -> None:
    view = large(prefill("p1"), queued_tokens=600, queued_short_tokens=100)
    partner = large(decode("d1"))
    short = candidate(request(cached_tokens=cached(p1=48)), view, partner)
    assert short.residual_tokens == 52
    # 100 tokens of short prompts, and one step of the long one.
    assert short.queue_seconds == pytest.approx(2 * 0.010 + 600 * (1e-4 + 1e-8 * STEP_TOKENS))
    assert short.prefill_seconds == COST.prefill_seconds(52, 48)
    assert short.transfer_seconds == pytest.approx(100 * 1e-4)
    long = candidate(request(num_tokens=1024), view, partner)
    assert long.prefill_seconds == pytest.approx(COST.prefill_seconds(1024) + 0.010)
    # 102 ms on the wire are hidden behind 133 ms of computing, but for the last part.
    assert long.transfer_seconds == pytest.approx(0.1024 / 8)
    assert long.ttft_seconds == pytest.approx(
        long.queue_seconds + long.prefill_seconds + long.transfer_seconds
    )


def test_a_slow_link_is_exposed_though_a_long_prompt_leaves_layer_by_layer() -> None:
    view = large(prefill("p1"), kv_bytes_per_second=1e6)
    predicted = candidate(request(num_tokens=1024), view, large(decode("d1")))
    assert predicted.transfer_seconds == pytest.approx(1.024 - predicted.prefill_seconds)


def test_a_short_prompt_does_not_wait_for_all_of_a_long_queue() -> None:
    long_queue = large(prefill("p1"), queued_tokens=50_000)
    short_queue = large(prefill("p2"), queued_tokens=2_000, queued_short_tokens=2_000)
    partners = [large(decode("d1"))]
    assert pair(place(request(), [long_queue, short_queue], partners)) == ("p1", "d1")
    long = request(num_tokens=1000)
    assert pair(place(long, [long_queue, short_queue], partners)) == ("p2", "d1")


def test_residual_tokens_decide_and_not_the_prompt() -> None:
    """A conversation of 4,000 tokens of which all but 40 are cached is short work, but only where
    they are; and that is worth a queue."""
    asked = request(num_tokens=4000, cached_tokens=cached(p2=3968))
    partners = [large(decode("d1"))]
    holder = large(prefill("p2"), queued_tokens=2_000, queued_short_tokens=500)
    placement = place(asked, [large(prefill("p1")), holder], partners)
    assert pair(placement) == ("p2", "d1")
    assert placement.candidates[0].residual_tokens == 32
    busy = replace(holder, queued_short_tokens=0, queued_tokens=30_000)
    assert pair(place(asked, [large(prefill("p1")), busy], partners)) == ("p2", "d1")
    crowded = replace(holder, queued_short_tokens=30_000, queued_tokens=30_000)
    assert pair(place(asked, [large(prefill("p1")), crowded], partners)) == ("p1", "d1")


def test_each_worker_is_predicted_at_its_own_cost() -> None:
    slow = replace(COST, token_seconds=1e-3)
    views = [large(prefill("p1"), cost=slow), large(prefill("p2"), queued_tokens=200)]
    assert pair(place(request(), views, [large(decode("d1"))]))[0] == "p2"


@pytest.mark.parametrize(
    ("decodes", "chosen"),
    [
        pytest.param(
            [large(decode("d1")), large(decode("d2"), running_requests=5)],
            "d2",
            id="the one that holds the prefix",
        ),
        pytest.param(
            [large(decode("d1")), large(decode("d2"), running_requests=9)],
            "d1",
            id="not when it is far busier",
        ),
        pytest.param(
            [large(decode("d1"), running_requests=5), large(decode("d2"), blocks_free=2)],
            "d1",
            id="not when it has no room",
        ),
        pytest.param(
            [large(decode("d1")), large(decode("d2"), blocks_predicted=9_998)],
            "d1",
            id="not when it is predicted to have no room",
        ),
        pytest.param(
            [
                large(decode("d1")),
                large(decode("d2"), running_requests=1, context_tokens=1_000_000),
            ],
            "d1",
            id="not when its tokens come too slowly",
        ),
        pytest.param(
            [large(decode("d1"), blocks_free=3), large(decode("d3"), blocks_free=4)],
            "d3",
            id="the one with the most room when none has enough",
        ),
        pytest.param(
            [large(decode("d3"), running_requests=1), large(decode("d1"), running_requests=2)],
            "d3",
            id="the one with the shorter step when none holds it",
        ),
    ],
)
def test_the_decode_worker_is_chosen_for_its_own_sake(
    decodes: list[WorkerView], chosen: str
) -> None:
    asked = request(cached_tokens=cached(d2=64))
    assert choose_partner(asked, decodes, SLO, ALONE).worker_id == chosen
    assert choose_partner(asked, decodes[::-1], SLO, ALONE).worker_id == chosen
    assert pair(place(asked, [large(prefill("p1"))], decodes)) == ("p1", chosen)


def test_a_prefix_is_followed_unless_too_many_do() -> None:
    strategy = STRATEGIES["prefix"](PlacementPolicy(), lambda: 0.0)
    asked = request(cached_tokens=cached(p2=64, p3=96))
    views = [prefill("p1"), prefill("p2"), prefill("p3", queued_tokens=8192)]
    assert pair(strategy(asking(asked, views, [decode("d1")], 0.0))) == ("p3", "d1")
    views[2] = prefill("p3", queued_tokens=8193)
    assert pair(strategy(asking(asked, views, [decode("d1")], 0.0))) == ("p2", "d1")


def test_only_the_best_candidates_are_reported() -> None:
    views = [large(prefill(f"p{n:02}"), queued_tokens=100 * n) for n in range(20)]
    placement = place(request(), views, [large(decode("d1"))])
    assert [predicted.prefill for predicted in placement.candidates] == [
        f"p{n:02}" for n in range(MAX_CANDIDATES)
    ]
    assert placement.prefill == placement.candidates[0].prefill


tokens = st.integers(0, 3000)
sides = st.lists(
    st.fixed_dictionaries(
        {
            "queued_tokens": tokens,
            "queued_short_tokens": tokens,
            "outstanding_tokens": tokens,
            "short_tokens": st.sampled_from([64, 256]),
            "running_requests": st.integers(0, 20),
            "blocks_predicted": st.sampled_from([0, 9_990]),
            "context_tokens": tokens,
            "model_fingerprint": st.sampled_from(["old", "new", "new"]),
            "draining": st.sampled_from([False, False, False, True]),
            "kv_bytes_per_second": st.sampled_from([0.0, 1e6, 1e8]),
            "cost": st.builds(
                lambda slower: replace(
                    COST,
                    token_seconds=COST.token_seconds * slower,
                    decode_request_seconds=COST.decode_request_seconds * slower,
                ),
                st.floats(0.2, 5.0),
            ),
        }
    ),
    min_size=1,
    max_size=6,
)


@given(
    prefill_side=sides,
    decode_side=sides,
    num_tokens=st.integers(1, 3000),
    held=st.lists(st.integers(0, 190), min_size=12, max_size=12),
    failed=st.sets(st.sampled_from(["p0", "p1", "d0", "d1"])),
    data=st.data(),
)
def test_the_choice_is_the_best_of_all_pairs(
    prefill_side: list[dict[str, Any]],
    decode_side: list[dict[str, Any]],
    num_tokens: int,
    held: list[int],
    failed: set[str],
    data: st.DataObject,
) -> None:
    prefills = [large(prefill(f"p{n}"), **side) for n, side in enumerate(prefill_side)]
    decodes = [large(decode(f"d{n}"), **side) for n, side in enumerate(decode_side)]
    views = [*prefills, *decodes]
    asked = request(
        num_tokens=num_tokens,
        blame=Blame.of(*map(WorkerId, failed)),
        cached_tokens={
            view.worker_id: 16 * blocks
            for view, blocks in zip(views, held, strict=False)
            if 0 < 16 * blocks < num_tokens
        },
    )
    try:
        candidates = find_candidates(asking(asked, prefills, decodes))
    except NoCandidates:
        return
    placement = place(asked, prefills, decodes)
    mixed = data.draw(st.permutations(prefills)), data.draw(st.permutations(decodes))
    assert place(asked, *map(list, mixed)) == placement
    partners = {
        kind: choose_partner(asked, some, SLO, ALONE) for kind, some in candidates.partners.items()
    }
    every = [candidate(asked, view, partners[view.kind]) for view in candidates.prefill]
    best = min(predicted.ttft_seconds for predicted in every)
    chosen = next(predicted for predicted in every if predicted.prefill == placement.prefill)
    assert chosen.ttft_seconds == pytest.approx(best, rel=1e-12)
    assert chosen.decode == placement.decode == partners[_kind(views, placement.decode)].worker_id
    assert placement.candidates[0] == chosen


@given(
    queued=st.lists(
        st.tuples(st.integers(0, 3), st.integers(0, 900), st.integers(0, 120)),
        min_size=9,
        max_size=40,
    ),
    num_tokens=st.integers(1, 2000),
    slower=st.integers(0, 3),
)
def test_of_many_workers_the_best_are_found_though_few_are_looked_at_closely(
    queued: list[tuple[int, int, int]], num_tokens: int, slower: int
) -> None:
    """Ties are many: queues of a few lengths, and few blocks that are held."""
    prefills = [
        large(
            prefill(f"p{n:02}"),
            queued_tokens=300 * some,
            queued_short_tokens=few,
            cost=replace(COST, step_seconds=0.01 + 0.005 * (n % 2) * slower),
        )
        for n, (some, few, _) in enumerate(queued)
    ]
    held = {WorkerId(f"p{n:02}"): 16 * (blocks // 30) * 10 for n, (*_, blocks) in enumerate(queued)}
    asked = request(
        num_tokens=num_tokens,
        max_new_tokens=1,
        cached_tokens={name: tokens for name, tokens in held.items() if tokens},
    )
    every = sorted(candidate(asked, view, None).ttft_seconds for view in prefills)
    found = [each.ttft_seconds for each in place(asked, prefills, []).candidates]
    assert found == pytest.approx(every[:MAX_CANDIDATES], rel=1e-12)


def _kind(views: list[WorkerView], worker_id: WorkerId | None) -> str:
    return next(view.kind for view in views if view.worker_id == worker_id)


@given(decode_side=sides, held=st.lists(st.integers(0, 6), min_size=6, max_size=6))
def test_the_partner_is_the_best_by_the_rule(
    decode_side: list[dict[str, Any]], held: list[int]
) -> None:
    views = [large(decode(f"d{n}"), **side) for n, side in enumerate(decode_side)]
    asked = request(
        cached_tokens={
            view.worker_id: 16 * blocks for view, blocks in zip(views, held, strict=False) if blocks
        }
    )
    chosen = choose_partner(asked, views, SLO, ALONE)
    roomy = [view for view in views if view.room_tokens > 100]
    if roomy:
        least = min(roomy, key=lambda v: (v.next_step_seconds, v.load_requests, v.worker_id))
    else:
        least = min(views, key=lambda view: (-view.room_tokens, view.worker_id))

    def holds(view: WorkerView) -> int:
        return asked.cached_tokens.get(view.worker_id, 0)

    preferred = [
        view
        for view in views
        if holds(view)
        and view.room_tokens > 100 - holds(view)
        and view.load_requests <= least.load_requests + 8
        and (view.next_step_seconds <= SLO or not view.load_requests)
    ]
    expected = min(
        preferred,
        key=lambda v: (-holds(v), v.next_step_seconds, v.load_requests, v.worker_id),
        default=least,
    )
    assert chosen.worker_id == expected.worker_id


def test_workers_whose_steps_cost_too_little_to_fit_share_the_requests() -> None:
    free = CostModel(
        step_seconds=0.001,
        token_seconds=0.0,
        attention_seconds=0.0,
        history_seconds=0.0,
        decode_request_seconds=0.0,
        decode_context_seconds=0.0,
    )
    prefills = [prefill("p1", cost=free, queued_tokens=200), prefill("p2", cost=free)]
    decodes = [decode("d1", cost=free, running_requests=3), decode("d2", cost=free)]
    assert pair(place(request(), prefills, decodes)) == ("p2", "d2")

"""Routers that place at once on the same picture: where each goes, and that they do not meet."""

from collections import Counter
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from policy.placement.views import COST, asking, cached, decode, large, prefill, request

from lengthwise_policy.placement.blame import Blame
from lengthwise_policy.placement.outstanding import (
    LONGEST_INTERVAL,
    SHORTEST_INTERVAL,
    status_interval,
)
from lengthwise_policy.placement.placement import Placement, PlacementInput
from lengthwise_policy.placement.policy import PlacementPolicy
from lengthwise_policy.placement.predicted_ttft import EXPECTED_SHARE, candidate
from lengthwise_policy.placement.strategies import make_strategy
from lengthwise_policy.placement.worker_view import still_queued, wait_seconds
from lengthwise_policy.spreading import ALONE, OtherRouters, exceeds, water_level
from lengthwise_policy.types import STEP_TOKENS, WorkerId

LOADS = st.lists(st.floats(0, 100), min_size=1, max_size=12)


@given(loads=LOADS, expected=st.floats(1e-3, 1000))
def test_the_level_is_that_at_which_what_is_expected_has_found_room(
    loads: list[float], expected: float
) -> None:
    level = water_level(loads, expected)
    assert sum(max(level - load, 0) for load in loads) == pytest.approx(expected, rel=1e-6)


def test_a_worker_has_too_much_only_beyond_what_a_router_said() -> None:
    assert not exceeds(1000, None)
    assert not exceeds(3, 3)
    assert exceeds(4, 3)
    assert exceeds(1, 0)


@given(loads=LOADS, own=st.floats(0, 100), draw=st.floats(0, 1, exclude_max=True))
def test_nobody_goes_where_nobody_is_expected(loads: list[float], own: float, draw: float) -> None:
    scored = [(load, str(name)) for name, load in enumerate(loads)]
    load, _ = OtherRouters(3, lambda: draw).choose(scored, own)
    if own:
        assert load <= water_level(loads, 3 * own)
    else:
        assert load == min(loads)
    assert ALONE.choose(scored, own) == min(scored)


@given(
    loads=st.lists(st.integers(0, 5), min_size=1, max_size=12),
    own=st.floats(0.01, 10),
    draw=st.floats(0, 1, exclude_max=True),
)
def test_ties_break_by_what_follows_the_load(loads: list[int], own: float, draw: float) -> None:
    """As if each in turn took its part of what is drawn."""
    scored = [(float(load), name) for name, load in zip("lkjihgfedcba", loads, strict=False)]
    level = water_level([load for load, _ in scored], 3 * own)
    rest, expected = draw * 3 * own, min(scored)
    for each in sorted(scored):
        if each[0] < level:
            expected = each
            rest -= level - each[0]
            if rest < 0:
                break
    assert OtherRouters(3, lambda: draw).choose(scored, own) == expected


def test_choices_are_in_proportion_to_the_room_below_the_level() -> None:
    """By hand: 2 and 4 are filled to 6 by what 3 others add, 2 each; 9 is above."""
    others = OtherRouters(3, Random(1).random)
    counts = Counter(
        others.choose([(9.0, "c"), (2.0, "a"), (4.0, "b")], 2.0)[1] for _ in range(6000)
    )
    assert counts["c"] == 0
    assert counts["a"] / counts["b"] == pytest.approx(4 / 2, rel=0.1)


@pytest.mark.parametrize(
    "strategy", ["predicted_ttft", "length_pools", "least_loaded", "prefix", "power_of_two"]
)
@pytest.mark.parametrize("local_prefill", [False, True])
def test_eight_routers_with_one_picture_do_not_meet_at_one_worker(
    strategy: str, local_prefill: bool
) -> None:
    placements = [place(strategy, 7, seed, local_prefill=local_prefill) for seed in range(8)]
    decodes = Counter(placement.decode for placement in placements)
    assert max(decodes.values()) <= 4
    if placements[0].prefill is not None:
        assert max(Counter(each.prefill for each in placements).values()) <= 4


@pytest.mark.parametrize("strategy", ["predicted_ttft", "least_loaded", "prefix"])
def test_a_router_that_is_alone_takes_the_best(strategy: str) -> None:
    chosen = {place(strategy, 0, seed, local_prefill=False).prefill for seed in range(8)}
    assert chosen == {"p00"}


def test_without_prefill_workers_routers_do_not_meet_either() -> None:
    placements = [place("predicted_ttft", 7, seed, num_prefill=0) for seed in range(8)]
    assert {each.rule for each in placements} == {"no prefill worker"}
    assert max(Counter(each.decode for each in placements).values()) <= 4


def test_equal_draws_give_equal_placements_whatever_the_order_of_the_workers() -> None:
    asked = _asked(7, Random(3).random)
    strategy = make_strategy("predicted_ttft", PlacementPolicy(), Random(1).random)
    turned = replace(
        _asked(7, Random(3).random), prefill=asked.prefill[::-1], decode=asked.decode[::-1]
    )
    assert strategy(asked) == strategy(turned)


def test_a_worker_that_has_the_prompt_is_far_enough_ahead_for_every_router() -> None:
    """Computing it anew takes a hundred times as long."""
    asked = request(num_tokens=3200, cached_tokens=cached(p09=3184), max_new_tokens=1)
    for seed in range(8):
        assert place("predicted_ttft", 3, seed, asked=asked).prefill == "p09"


@given(
    queued=st.lists(
        st.tuples(st.integers(0, 40), st.integers(0, 900), st.integers(0, 500), st.integers(0, 9)),
        min_size=2,
        max_size=40,
    ),
    num_tokens=st.integers(1, 2000),
    count=st.integers(1, 15),
    draw=st.floats(0, 1, exclude_max=True),
)
def test_of_many_workers_the_same_is_taken_though_few_are_looked_at_closely(
    queued: list[tuple[int, int, int, int]], num_tokens: int, count: int, draw: float
) -> None:
    """As where every one is predicted, and every one is below the level or not."""
    prefills, decodes = [], []
    for number, (some, few, unseen, slower) in enumerate(queued):
        cost = replace(COST, token_seconds=1e-4 + 2e-5 * slower)
        load = {"queued_tokens": 300 * some, "queued_short_tokens": few, "cost": cost}
        prefills.append(large(prefill(f"p{number:02}"), fresh_tokens=unseen, **load))
        busy = {"running_requests": some, "fresh_requests": unseen // 400}
        decodes.append(large(decode(f"d{number:02}"), context_tokens=300 * few, **busy))
    held = {f"p{n:02}": 16 * (few % 60) for n, (_, few, *_) in enumerate(queued) if few % 60 > 40}
    wanted = request(num_tokens=num_tokens, cached_tokens=cached(**held))
    others = OtherRouters(count, lambda: draw)
    policy = PlacementPolicy(local_prefill=False)
    asked = replace(asking(wanted, prefills, decodes), others=others)
    placement = make_strategy("predicted_ttft", policy, lambda: draw)(asked)

    steps = [(v.next_step_seconds, v.load_requests, v.worker_id) for v in decodes]
    longer = COST.decode_request_seconds + COST.decode_context_seconds * num_tokens
    partners = 1 + sum(view.fresh_requests for view in decodes)
    assert placement.decode == others.choose(steps, partners * longer)[-1]

    (partner,) = (view for view in decodes if view.worker_id == placement.decode)
    every = {view.worker_id: candidate(wanted, view, partner) for view in prefills}
    scored = [
        (round(every[view.worker_id].ttft_seconds, 12), view.tokens_ahead, view.worker_id, view)
        for view in prefills
    ]
    best = min(scored)[-1]
    unseen_tokens = sum(view.fresh_tokens for view in prefills)
    own = every[best.worker_id].prefill_seconds + wait_seconds(best.cost, unseen_tokens)
    expected = others.choose(scored, EXPECTED_SHARE * own)
    found = {each.prefill: each.ttft_seconds for each in placement.candidates}
    assert placement.prefill == expected[2] or found[placement.prefill] == pytest.approx(
        expected[0], abs=1e-9
    )
    ranked = sorted(each.ttft_seconds for each in every.values() if each.prefill not in found)
    assert max(list(found.values())[1:], default=0) <= min(ranked, default=1e9) + 1e-9


@given(
    tokens=st.lists(st.integers(0, 20_000), min_size=2, max_size=10),
    held=st.integers(0, 90),
    draw=st.floats(0, 1, exclude_max=True),
)
def test_a_worker_is_to_refuse_what_would_come_sooner_from_another(
    tokens: list[int], held: int, draw: float
) -> None:
    prefills = [large(prefill(f"p{n}"), queued_tokens=each) for n, each in enumerate(tokens)]
    wanted = request(num_tokens=2000, max_new_tokens=1, cached_tokens=cached(p0=16 * held))
    asked = replace(asking(wanted, prefills, []), others=OtherRouters(7, lambda: draw))
    placement = make_strategy("predicted_ttft", PlacementPolicy(), lambda: draw)(asked)
    most = placement.most_tokens_ahead
    assert most is not None
    (taken,) = (view for view in prefills if view.worker_id == placement.prefill)
    assert most >= taken.tokens_ahead
    seconds = {view.worker_id: candidate(wanted, view, None).ttft_seconds for view in prefills}
    soonest = min(seconds[each] for each in seconds if each != placement.prefill)
    with_most = candidate(wanted, replace(taken, queued_tokens=most), None).ttft_seconds
    one_step = replace(taken, queued_tokens=most + STEP_TOKENS + 1)
    assert with_most <= max(soonest, seconds[taken.worker_id]) + taken.cost.step_seconds
    assert candidate(wanted, one_step, None).ttft_seconds > soonest


@given(running=st.integers(0, 3), ahead=st.integers(0, 5000), tokens=st.integers(2, 400))
def test_a_decode_worker_is_not_to_compute_beside_more_requests_than_pay(
    running: int, ahead: int, tokens: int
) -> None:
    """By hand, what a local prefill takes and imposes is weighed against the prefill worker."""
    wanted = request(num_tokens=tokens, max_new_tokens=10)
    able = large(decode("d"), running_requests=running)
    asked = asking(wanted, [large(prefill("p"), queued_tokens=ahead)], [able])
    shared = replace(asked, others=OtherRouters(7, lambda: 0.5))
    strategy = make_strategy("predicted_ttft", PlacementPolicy(), lambda: 0.5)
    placement = strategy(shared)
    assert strategy(asked).most_requests is None
    if placement.prefill is not None or "at risk" in placement.reason:
        assert placement.most_requests is None
        return
    most = placement.most_requests
    assert most is not None
    assert most >= running
    delay = able.cost.chunk_seconds(tokens)
    local, remote = placement.candidates[0], placement.candidates[1]
    assert local.ttft_seconds + most * delay <= remote.ttft_seconds + 1e-12
    assert local.ttft_seconds + (most + 1) * delay > remote.ttft_seconds


def test_where_nothing_better_can_be_found_no_worker_is_to_refuse() -> None:
    def most(others: int, workers: int, *refused: str) -> int | None:
        asked = request(num_tokens=300, blame=Blame.of(*map(WorkerId, refused)))
        return place(
            "predicted_ttft", others, 1, asked=asked, num_prefill=workers, local_prefill=False
        ).most_tokens_ahead

    assert most(7, 16) is not None
    assert most(0, 16) is None
    assert most(7, 1) is None
    assert most(7, 2, "p00") is None
    assert most(7, 16, "p00", "p01") is not None
    assert most(7, 16, *(f"p{n:02}" for n in range(8))) is None


@given(tokens=st.integers(0, 20_000), seconds=st.floats(0, 3), later=st.floats(0, 3))
def test_a_queue_shrinks_while_no_status_comes_no_faster_than_it_is_computed(
    tokens: int, seconds: float, later: float
) -> None:
    left = still_queued("prefill", tokens, COST, seconds)
    assert 0 <= still_queued("prefill", tokens, COST, seconds + later) <= left <= tokens
    assert wait_seconds(COST, tokens) - wait_seconds(COST, left) <= seconds + COST.step_seconds


def test_a_queue_that_costs_nothing_stays_as_it_was_shown() -> None:
    free = replace(COST, step_seconds=0.0, token_seconds=0.0, attention_seconds=0.0)
    assert still_queued("prefill", 100, free, 1.0) == 100
    assert still_queued("decode", 100, COST, 1.0) == 100


@given(st.integers(0, 100_000))
def test_the_more_workers_the_fewer_statuses_of_each(count: int) -> None:
    interval = status_interval(count)
    assert SHORTEST_INTERVAL <= interval <= LONGEST_INTERVAL
    assert status_interval(count + 1) >= interval
    assert status_interval(75) == SHORTEST_INTERVAL
    assert status_interval(1000) == LONGEST_INTERVAL
    if interval < LONGEST_INTERVAL:
        assert count / interval <= 1500 * (1 + 1e-9)


def place(
    strategy: str,
    others: int,
    seed: int,
    *,
    local_prefill: bool = True,
    num_prefill: int = 16,
    asked: object = None,
) -> Placement:
    draw = Random(seed).random
    placed = _asked(others, draw, num_prefill)
    if asked is not None:
        placed = replace(placed, request=asked)  # type: ignore[arg-type]
    policy = PlacementPolicy(local_prefill=local_prefill)
    return make_strategy(strategy, policy, draw)(placed)


def _asked(others: int, draw: object, num_prefill: int = 16) -> PlacementInput:
    """All but equally idle workers: the first of each role is the best by a hair."""
    prefills = [large(prefill(f"p{n:02}"), queued_tokens=n) for n in range(num_prefill)]
    decodes = [large(decode(f"d{n:02}"), context_tokens=n) for n in range(16)]
    asked = asking(request(num_tokens=300), prefills, decodes)
    return replace(asked, others=OtherRouters(others, draw))  # type: ignore[arg-type]

"""Placement: who may be chosen, who is chosen by each strategy, and what a refusal says."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from policy.placement.views import asking, decode, excluded, pair, prefill, request

from lengthwise_policy.errors import NoCandidates
from lengthwise_policy.placement.local_prefill import LocalPrefill
from lengthwise_policy.placement.placement import Placement, PlacementRequest
from lengthwise_policy.placement.policy import PlacementPolicy, Strategy
from lengthwise_policy.placement.predicted_ttft import PredictedTtft
from lengthwise_policy.placement.strategies import (
    DEFAULT_STRATEGY,
    STRATEGIES,
    LeastLoaded,
    RoundRobin,
    make_strategy,
)
from lengthwise_policy.placement.worker_view import WorkerView
from lengthwise_policy.types import Random, WorkerId


def strategy_of(name: str, random: Random = lambda: 0.0) -> Strategy:
    """Without local prefill, which has tests of its own."""
    return STRATEGIES[name](PlacementPolicy(), random)


@pytest.mark.parametrize(
    ("prefills", "decodes", "chosen"),
    [
        pytest.param(
            [prefill("p2"), prefill("p1")],
            [decode("d2"), decode("d1")],
            ("p1", "d1"),
            id="ties break by id",
        ),
        pytest.param(
            [prefill("p1", queued_tokens=500), prefill("p2", queued_tokens=400)],
            [decode("d1", blocks_free=10), decode("d2", blocks_free=11)],
            ("p2", "d2"),
            id="fewest tokens ahead, most blocks free",
        ),
        pytest.param(
            [prefill("p1", outstanding_tokens=200), prefill("p2", queued_tokens=199)],
            [decode("d1", outstanding_tokens=33), decode("d2", blocks_free=98)],
            ("p2", "d2"),
            id="what this router has placed since the last status counts",
        ),
        pytest.param(
            [prefill("p1")],
            [decode("d1", blocks_free=0, queued_tokens=300), decode("d2", blocks_free=0)],
            ("p1", "d2"),
            id="full decode workers are distinguished by their queues",
        ),
        pytest.param(
            [prefill("p1"), prefill("p2", queued_tokens=9)],
            [decode("d1"), decode("d2", layout_fingerprint="other")],
            ("p1", "d1"),
            id="another KV layout is no partner",
        ),
        pytest.param(
            [prefill("p1", model_fingerprint="other"), prefill("p2", queued_tokens=9)],
            [decode("d1")],
            ("p2", "d1"),
            id="a prefill worker without a partner is passed over",
        ),
        pytest.param(
            [prefill("p1", model_fingerprint="new"), prefill("p2")],
            [decode("d1"), decode("d2", model_fingerprint="new", blocks_free=1)],
            ("p1", "d2"),
            id="each generation keeps to itself",
        ),
        pytest.param(
            [prefill("p1", draining=True), prefill("p2", queued_tokens=9)],
            [decode("d1", draining=True), decode("d2", blocks_free=1)],
            ("p2", "d2"),
            id="draining workers take no new work",
        ),
        pytest.param(
            [prefill("p1", blocks_total=6), prefill("p2", blocks_total=7, queued_tokens=9)],
            [decode("d1", blocks_total=6, blocks_free=6), decode("d2", blocks_free=0)],
            ("p2", "d2"),
            id="a cache that can never hold the request is passed over",
        ),
    ],
)
def test_the_least_loaded_pair(
    prefills: list[WorkerView], decodes: list[WorkerView], chosen: tuple[str, str]
) -> None:
    assert pair(LeastLoaded()(asking(request(), prefills, decodes))) == chosen


@pytest.mark.parametrize(
    ("asked", "chosen", "note"),
    [
        pytest.param(excluded("p1"), ("p2", "d1"), "", id="another prefill worker"),
        pytest.param(excluded("d1"), ("p1", "d2"), "", id="another decode worker"),
        pytest.param(
            excluded("p1", "p2"),
            ("p1", "d1"),
            "; only prefill workers that failed this request are left",
            id="no other prefill worker",
        ),
        pytest.param(
            excluded("p1", "d1", "d2"),
            ("p2", "d1"),
            "; only decode workers that failed this request are left",
            id="no other decode worker",
        ),
        pytest.param(
            excluded("p1", "p2", "d1", "d2"),
            ("p1", "d1"),
            "; only workers that failed this request are left",
            id="no other worker",
        ),
    ],
)
def test_workers_that_failed_the_request_are_the_last_resort(
    asked: PlacementRequest, chosen: tuple[str, str], note: str
) -> None:
    prefills, decodes = [prefill("p1"), prefill("p2")], [decode("d1"), decode("d2")]
    placement = LeastLoaded()(asking(asked, prefills, decodes))
    assert pair(placement) == chosen
    assert placement.reason == f"least loaded: 0 tokens ahead, 1600 KV slots left{note}"


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_request_for_one_token_needs_no_decode_worker(name: str) -> None:
    strategy = strategy_of(name)
    placement = strategy(asking(request(max_new_tokens=1), [prefill("p1")], []))
    assert pair(placement) == ("p1", None)
    assert placement.reason.endswith("0 tokens ahead, one token needs no decode worker")


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_retry_keeps_the_decode_worker_that_holds_its_reservation(name: str) -> None:
    strategy = strategy_of(name)
    decodes = [decode("d1"), decode("d2", draining=True, blocks_free=0), decode("d3")]
    asked = replace(excluded("p1"), reserved_decode=WorkerId("d2"))
    assert pair(strategy(asking(asked, [prefill("p1"), prefill("p2")], decodes))) == (
        "p2",
        "d2",
    )


@pytest.mark.parametrize(
    ("asked", "prefills", "decodes", "reason"),
    [
        pytest.param(
            request(),
            [prefill("p1", draining=True), prefill("p2", blocks_total=6)],
            [decode("d1")],
            "no prefill worker for 100 tokens: of 2 known, 1 drain and 1 are too small",
            id="prefill workers drain or are too small",
        ),
        pytest.param(
            request(),
            [prefill("p1")],
            [decode("d1", blocks_total=6)],
            "no decode worker for 109 tokens: of 1 known, 0 drain and 1 are too small",
            id="the decode worker is too small",
        ),
        pytest.param(
            request(),
            [prefill("p1")],
            [],
            "no decode worker for 109 tokens: of 0 known, 0 drain and 0 are too small",
            id="no decode worker is known",
        ),
        pytest.param(
            request(),
            [prefill("p1")],
            [decode("d1", layout_fingerprint="other")],
            "no prefill worker has a decode worker of the same model and KV layout: "
            "prefill workers are model/layout, decode workers are model/other",
            id="no two are compatible",
        ),
        pytest.param(
            request(reserved_decode=WorkerId("d2")),
            [prefill("p1")],
            [decode("d1")],
            "decode worker 'd2', which holds the reservation, is gone",
            id="the reservation is lost",
        ),
    ],
)
def test_a_refusal_says_what_is_lacking(
    asked: PlacementRequest, prefills: list[WorkerView], decodes: list[WorkerView], reason: str
) -> None:
    with pytest.raises(NoCandidates) as refused:
        LeastLoaded()(asking(asked, prefills, decodes))
    assert refused.value.reason == reason


def test_round_robin_goes_on_after_the_last_choice_though_workers_come_and_go() -> None:
    strategy = RoundRobin()
    prefills = [prefill(name) for name in ("p3", "p1", "p2")]
    decodes = [decode(name) for name in ("d1", "d2")]
    chosen = [pair(strategy(asking(request(), prefills, decodes))) for _ in range(4)]
    assert chosen == [("p1", "d1"), ("p2", "d2"), ("p3", "d1"), ("p1", "d2")]
    assert pair(strategy(asking(request(), [prefill("p0"), prefill("p3")], decodes))) == (
        "p3",
        "d1",
    )
    assert pair(strategy(asking(request(), [prefill("p0"), prefill("p3")], decodes))) == (
        "p0",
        "d2",
    )


def test_round_robin_forgets_a_request_that_could_not_be_placed() -> None:
    strategy = RoundRobin()
    with pytest.raises(NoCandidates):
        strategy(asking(request(), [prefill("p1")], []))
    prefills = [prefill("p1"), prefill("p2")]
    assert pair(strategy(asking(request(), prefills, [decode("d1")])))[0] == "p1"


@pytest.mark.parametrize(
    ("drawn", "chosen"),
    [
        pytest.param([0.0, 0.0], "p1", id="of p1 and p2"),
        pytest.param([0.26, 0.7], "p2", id="of p2 and p4"),
        pytest.param([0.99, 0.99], "p3", id="of p4 and p3"),
        pytest.param([0.76, 0.0], "p1", id="of p4 and p1"),
    ],
)
def test_power_of_two_takes_the_less_loaded_of_two_different_workers(
    drawn: list[float], chosen: str
) -> None:
    draws = iter(drawn)
    strategy = strategy_of("power_of_two", lambda: next(draws))
    prefills = [prefill(f"p{n}", queued_tokens=n) for n in (4, 2, 1, 3)]
    assert pair(strategy(asking(request(), prefills, [decode("d1")]))) == (chosen, "d1")


views = st.integers(1, 6).flatmap(
    lambda count: st.tuples(
        st.permutations(range(count)),
        st.lists(st.integers(0, 3), min_size=count, max_size=count),
        st.lists(st.sampled_from(["old", "new"]), min_size=count, max_size=count),
        st.lists(st.booleans(), min_size=count, max_size=count),
    )
)


@pytest.mark.parametrize("name", STRATEGIES)
@given(prefill_side=views, decode_side=views, random=st.floats(0, 1, exclude_max=True))
def test_the_order_of_the_workers_does_not_matter_and_pairs_fit(
    name: str, prefill_side: Any, decode_side: Any, random: float
) -> None:
    sides = []
    for make, (order, loads, kinds, drains) in ((prefill, prefill_side), (decode, decode_side)):
        ordered = [
            make(f"w{i}", queued_tokens=loads[i], model_fingerprint=kinds[i], draining=drains[i])
            for i in range(len(order))
        ]
        sides.append((ordered, [ordered[i] for i in order]))
    (prefills, prefills_mixed), (decodes, decodes_mixed) = sides

    def place(some: list[WorkerView], others: list[WorkerView]) -> Placement | str:
        try:
            return strategy_of(name, lambda: random)(asking(request(), some, others))
        except NoCandidates as refused:
            return refused.reason

    placement = place(prefills, decodes)
    assert placement == place(prefills_mixed, decodes_mixed)
    pairs = {
        (p.worker_id, d.worker_id)
        for p in prefills
        for d in decodes
        if p.model_fingerprint == d.model_fingerprint and not p.draining and not d.draining
    }
    if isinstance(placement, Placement):
        assert pair(placement) in pairs
        assert placement.rule in strategy_of(name).rules
        assert placement.reason.startswith(f"{placement.rule}: ")
    else:
        assert not pairs


def test_the_default_strategy_predicts_and_may_compute_locally() -> None:
    assert DEFAULT_STRATEGY == "predicted_ttft"
    default = make_strategy(DEFAULT_STRATEGY, PlacementPolicy(), lambda: 0.0)
    assert isinstance(default, LocalPrefill)
    remote_only = PlacementPolicy(local_prefill=False)
    assert isinstance(make_strategy(DEFAULT_STRATEGY, remote_only, lambda: 0.0), PredictedTtft)

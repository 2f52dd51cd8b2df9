"""Prefill workers that an operator has meant for one length class: every strategy keeps to it while
it can, and says so."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from policy.placement.views import asking, cached, decode, pair, prefill, request

from lengthwise_policy.length_class import length_class
from lengthwise_policy.placement.blame import Blame
from lengthwise_policy.placement.length_pools import LengthPools
from lengthwise_policy.placement.placement import PlacementRequest
from lengthwise_policy.placement.policy import PlacementPolicy, Strategy
from lengthwise_policy.placement.strategies import STRATEGIES, make_strategy
from lengthwise_policy.placement.worker_view import WorkerView

SHORT, LONG = 100, 1000

BIG = {"blocks_total": 1000, "blocks_free": 1000}


def strategy_of(name: str) -> Strategy:
    """Without local prefill, which has tests of its own."""
    return make_strategy(name, PlacementPolicy(local_prefill=False), lambda: 0.5)


def is_usable(view: WorkerView, asked: PlacementRequest, decodes: Sequence[WorkerView]) -> bool:
    """The rule without length classes, spelled out for requests that were never tried before."""
    return (
        not view.draining
        and view.capacity_tokens >= asked.num_tokens
        and any(
            other.kind == view.kind
            and not other.draining
            and other.capacity_tokens >= asked.kv_tokens
            for other in decodes
        )
    )


def is_meant(view: WorkerView, asked: PlacementRequest) -> bool:
    residual = asked.num_tokens - asked.cached_tokens.get(view.worker_id, 0)
    return view.length_class in (None, length_class(residual, view.short_tokens))


prefill_views = st.builds(
    prefill,
    st.sampled_from(["p1", "p2", "p3", "p4", "p5"]),
    blocks_total=st.sampled_from([20, 1000]),
    draining=st.booleans(),
    model_fingerprint=st.sampled_from(["model", "other"]),
    queued_tokens=st.sampled_from([0, 10, 5000]),
    short_tokens=st.sampled_from([64, 256, 1024]),
    length_class=st.sampled_from([None, "short", "long"]),
)
decode_views = st.builds(
    decode,
    st.sampled_from(["d1", "d2"]),
    blocks_total=st.just(1000),
    draining=st.booleans(),
    model_fingerprint=st.sampled_from(["model", "other"]),
)


@pytest.mark.parametrize("name", STRATEGIES)
@given(
    prefills=st.lists(prefill_views, unique_by=lambda view: view.worker_id),
    decodes=st.lists(decode_views, unique_by=lambda view: view.worker_id),
    num_tokens=st.sampled_from([50, 100, 500, 2000]),
    held=st.dictionaries(st.sampled_from(["p1", "p2", "p3"]), st.sampled_from([16, 96, 480])),
)
def test_a_worker_of_another_class_is_chosen_only_where_no_other_is_usable(
    name: str,
    prefills: list[WorkerView],
    decodes: list[WorkerView],
    num_tokens: int,
    held: dict[str, int],
) -> None:
    held = {worker_id: tokens for worker_id, tokens in held.items() if tokens < num_tokens}
    asked = request(num_tokens=num_tokens, cached_tokens=cached(**held))
    usable = [view for view in prefills if is_usable(view, asked, decodes)]
    if not usable:
        return  # no worker can be chosen; other tests say what happens then
    placement = strategy_of(name)(asking(asked, prefills, decodes, 0.0))
    chosen = next(view for view in usable if view.worker_id == placement.prefill)
    meant = [view for view in usable if is_meant(view, asked)]
    assert is_meant(chosen, asked) or not meant
    assert ("for other lengths passed over" in placement.reason) == (0 < len(meant) < len(usable))
    assert ("only prefill workers for other lengths are left" in placement.reason) == (not meant)


@pytest.mark.parametrize("name", STRATEGIES)
@pytest.mark.parametrize(
    ("num_tokens", "chosen"), [(SHORT, "p2"), (LONG, "p1")], ids=["short", "long"]
)
def test_each_class_goes_to_its_own_workers_however_busy(
    name: str, num_tokens: int, chosen: str
) -> None:
    prefills = [
        prefill("p1", length_class="long", queued_tokens=0 if chosen == "p2" else 20_000, **BIG),
        prefill("p2", length_class="short", queued_tokens=0 if chosen == "p1" else 20_000, **BIG),
    ]
    asked = request(num_tokens=num_tokens)
    placement = strategy_of(name)(asking(asked, prefills, [decode("d1", **BIG)], 0.0))
    assert pair(placement) == (chosen, "d1")
    assert placement.reason.endswith("; 1 prefill worker for other lengths passed over")


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_long_prompt_of_which_a_short_rest_is_left_is_short_where_it_is_cached(name: str) -> None:
    prefills = [
        prefill("p1", length_class="short", **BIG),
        prefill("p2", length_class="short", **BIG),
        prefill("p3", length_class="long", draining=True, **BIG),
    ]
    asked = request(num_tokens=LONG, cached_tokens=cached(p2=960))
    placement = strategy_of(name)(asking(asked, prefills, [decode("d1", **BIG)], 0.0))
    assert pair(placement) == ("p2", "d1")


def test_a_worker_that_failed_the_request_comes_after_one_for_other_lengths() -> None:
    prefills = [
        prefill("p1", length_class="short", **BIG),
        prefill("p2", length_class="long", **BIG),
    ]
    asked = request(num_tokens=SHORT, blame=Blame.of(prefills[0].worker_id))
    placement = strategy_of("least_loaded")(asking(asked, prefills, [decode("d1", **BIG)], 0.0))
    assert pair(placement) == ("p2", "d1")
    assert placement.reason.endswith("; only prefill workers for other lengths are left")


def test_what_is_meant_for_a_class_stays_in_its_pool() -> None:
    pools = LengthPools(PlacementPolicy())
    busy = {"queued_tokens": 200_000, "running_requests": 1, **BIG}
    prefills = [
        prefill("p1", length_class="short", **BIG),
        prefill("p2", length_class="short", **BIG),
        prefill("p3", length_class="long", **busy),
    ]
    for now in range(60):
        pools(asking(request(num_tokens=LONG), prefills, [decode("d1", **BIG)], float(now)))
        assert pools.move is None
    assert pools.members("short") == ("p1", "p2")
    assert pools.members("long") == ("p3",)

"""Pools of prefill workers by prompt length: who is in which, and how workers change over."""

from dataclasses import replace
from itertools import pairwise
from random import Random
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from policy.placement.views import asking, cached, decode, large, prefill, request

from lengthwise_policy.length_class import LengthClass
from lengthwise_policy.placement.length_pools import LengthPools
from lengthwise_policy.placement.policy import PlacementPolicy, PoolPolicy
from lengthwise_policy.placement.worker_view import WorkerView

DECODES = [large(decode("d1"))]
LONG = request(num_tokens=1000)
SHORT = request(num_tokens=100)
RULES = PoolPolicy(cooldown_seconds=5.0, drain_seconds=30.0)


def pools_of(*views: WorkerView) -> LengthPools:
    pools = LengthPools(PlacementPolicy(pools=RULES))
    pools(asking(SHORT, views, DECODES, 0.0))
    return pools


def idle(count: int) -> list[WorkerView]:
    return [large(prefill(f"p{n}")) for n in range(count)]


def busy(view: WorkerView, tokens: int = 20_000) -> WorkerView:
    return replace(view, queued_tokens=tokens, running_requests=1)


def test_workers_are_shared_out_evenly_and_take_their_own_length() -> None:
    views = idle(4)
    pools = pools_of(*views)
    assert pools.members("short") == ("p0", "p2")
    assert pools.members("long") == ("p1", "p3")
    assert pools(asking(SHORT, views, DECODES, 1.0)).prefill == "p0"
    assert pools(asking(LONG, views, DECODES, 1.0)).prefill == "p1"
    assert pools(asking(SHORT, [*views, large(prefill("p4"))], DECODES, 1.0)).prefill == "p0"
    assert pools.members("short") == ("p0", "p2", "p4")


def test_one_worker_alone_takes_everything() -> None:
    views = idle(1)
    pools = pools_of(*views)
    assert [pools(asking(each, views, DECODES, 1.0)).prefill for each in (SHORT, LONG)] == [
        "p0",
        "p0",
    ]


def test_a_worker_that_holds_the_prefix_takes_the_short_rest_whatever_its_pool() -> None:
    views = idle(2)
    pools = pools_of(*views)
    asked = replace(LONG, cached_tokens=cached(p1=960))
    assert pools(asking(asked, views, DECODES, 1.0)).prefill == "p1"


def test_a_worker_drains_before_it_moves() -> None:
    views = idle(4)
    pools = pools_of(*views)
    views[0], views[2] = busy(views[0]), busy(views[2])
    views[1] = busy(views[1], 100)
    views[3] = busy(views[3], 200)
    pools(asking(SHORT, views, DECODES, 10.0))
    assert pools.move is not None
    assert (pools.move.worker_id, pools.move.target) == ("p1", "short")
    for now in (10.1, 10.3, 12.0):
        assert pools(asking(SHORT, views, DECODES, now)).prefill in ("p0", "p2")
        assert pools(asking(LONG, views, DECODES, now)).prefill == "p3"
    views[1] = large(prefill("p1"))
    assert pools(asking(SHORT, views, DECODES, 12.2)).prefill == "p1"
    assert pools.move is None
    assert pools.members("short") == ("p0", "p1", "p2")


def test_a_worker_that_does_not_drain_stays() -> None:
    views = [busy(view) for view in idle(4)]
    views[1], views[3] = busy(views[1], 100), busy(views[3], 200)
    pools = pools_of(*views)
    pools(asking(SHORT, views, DECODES, 10.0))
    pools(asking(SHORT, views, DECODES, 39.0))
    assert pools.move is not None
    pools(asking(SHORT, views, DECODES, 40.5))
    assert pools.members("long") == ("p1", "p3")


def test_a_pool_that_lost_its_last_worker_gets_another() -> None:
    views = idle(3)
    pools = pools_of(*views)
    assert pools.members("long") == ("p1",)
    del views[1]
    assert pools(asking(LONG, views, DECODES, 10.0)).prefill in ("p0", "p2")
    pools(asking(LONG, views, DECODES, 10.2))
    assert (len(pools.members("short")), len(pools.members("long"))) == (1, 1)


def test_a_move_ends_with_the_worker() -> None:
    views = idle(4)
    pools = pools_of(*views)
    views[0] = busy(views[0])
    views[2] = busy(views[2])
    views[1] = busy(views[1], 100)
    pools(asking(SHORT, views, DECODES, 10.0))
    assert pools.move is not None
    moving = pools.move.worker_id
    pools(asking(SHORT, [view for view in views if view.worker_id != moving], DECODES, 10.2))
    assert pools.move is None


class Fluid:
    """Four prefill workers as fast as they are predicted to be, and what arrives."""

    def __init__(self) -> None:
        self.pools = LengthPools(PlacementPolicy(pools=RULES))
        self.views = {f"p{n}": large(prefill(f"p{n}")) for n in range(4)}
        self.now = 0.0
        self.moves: list[float] = []
        self.random = Random(3)

    def run(self, seconds: float, *, share: float, load: float) -> None:
        """`share` of the tokens are of short prompts; `load` is the part of the workers' time that
        they take."""
        until = self.now + seconds
        while self.now < until:
            tokens = 4 * TICK_TOKENS * load
            for num_tokens, part in ((250, share), (2000, 1 - share)):
                for _ in range(int(tokens * part / num_tokens + self.random.random())):
                    self._arrives(num_tokens)
            self.now += 0.1
            for name, view in self.views.items():
                left = max(view.queued_tokens - TICK_TOKENS, 0)
                short = max(view.queued_short_tokens - TICK_TOKENS, 0)
                self._holds(name, left, short)

    def _arrives(self, num_tokens: int) -> None:
        before = self.pools.move
        views = list(self.views.values())
        chosen = self.pools(
            asking(request(num_tokens=num_tokens), views, DECODES, self.now)
        ).prefill
        assert chosen is not None
        view = self.views[chosen]
        short = num_tokens if num_tokens <= 256 else 0
        self._holds(chosen, view.queued_tokens + num_tokens, view.queued_short_tokens + short)
        if self.pools.move is not None and self.pools.move != before:
            self.moves.append(self.now)

    def _holds(self, name: str, tokens: int, short_tokens: int) -> None:
        self.views[name] = replace(
            self.views[name],
            queued_tokens=tokens,
            queued_short_tokens=min(short_tokens, tokens),
            running_requests=int(tokens > 0),
        )


TICK_TOKENS = 780  # in 0.1 s, in steps of 512


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("load", [0.5, 0.8])
def test_a_constant_load_does_not_make_workers_go_back_and_forth(share: float, load: float) -> None:
    fluid = Fluid()
    fluid.run(30, share=share, load=load)
    settled = len(fluid.moves)
    assert settled <= 2, fluid.moves
    fluid.run(30, share=share, load=load)
    assert len(fluid.moves) - settled <= 1, fluid.moves


def test_workers_follow_a_load_that_shifts() -> None:
    fluid = Fluid()
    for share in (0.9, 0.1):
        fluid.run(30, share=share, load=0.8)
        needed: LengthClass = "short" if share > 0.5 else "long"
        assert len(fluid.pools.members(needed)) > 2
    assert fluid.moves
    distances = [later - earlier for earlier, later in pairwise(fluid.moves)]
    assert all(distance >= RULES.cooldown_seconds for distance in distances)


class PoolMachine(RuleBasedStateMachine):
    """Whatever happens to workers: the rules of moving hold."""

    def __init__(self) -> None:
        super().__init__()
        self.pools = LengthPools(PlacementPolicy(pools=RULES))
        self.views: dict[str, WorkerView] = {}
        self.now = 0.0
        self.began: list[float] = []
        self.joined = 0

    @rule()
    def join(self) -> None:
        if len(self.views) < 6:
            name = f"p{self.joined:03}"
            self.joined += 1
            self.views[name] = large(prefill(name))

    @precondition(lambda self: len(self.views) > 1)
    @rule(data=st.data())
    def leave(self, data: Any) -> None:
        del self.views[data.draw(st.sampled_from(sorted(self.views)))]

    @precondition(lambda self: self.views)
    @rule(data=st.data(), tokens=st.sampled_from([0, 0, 500, 30_000]))
    def work(self, data: Any, tokens: int) -> None:
        name = data.draw(st.sampled_from(sorted(self.views)))
        self.views[name] = replace(
            self.views[name], queued_tokens=tokens, running_requests=int(tokens > 0)
        )

    @precondition(lambda self: self.views)
    @rule(seconds=st.sampled_from([0.01, 0.2, 2.0, 6.0]), num_tokens=st.sampled_from([50, 2000]))
    def place(self, seconds: float, num_tokens: int) -> None:
        self.now += seconds
        before = self.pools.move
        chosen = self.pools(
            asking(request(num_tokens=num_tokens), list(self.views.values()), DECODES, self.now)
        )
        after = self.pools.move
        if after is not None and after != before:
            self.began.append(self.now)
            source: LengthClass = "long" if after.target == "short" else "short"
            assert self.pools.members(source), "a pool gave its last worker away"
        if before is not None and after is None and before.worker_id in self.views:
            moved = before.worker_id in self.pools.members(before.target)
            is_empty = not self.views[before.worker_id].tokens_ahead
            assert moved == is_empty, "a worker moves when it is empty, and only then"
        if after is not None and len(self.views) > 1:
            assert chosen.prefill != after.worker_id, "the moving worker takes nothing new"

    @invariant()
    def moves_keep_their_distance(self) -> None:
        for earlier, later in pairwise(self.began):
            assert later - earlier >= RULES.cooldown_seconds

    @invariant()
    def everybody_is_in_one_pool(self) -> None:
        members = [*self.pools.members("short"), *self.pools.members("long")]
        moving = [self.pools.move.worker_id] if self.pools.move else []
        assert len({*members, *moving}) == len(members) + len(moving)


TestPools = PoolMachine.TestCase

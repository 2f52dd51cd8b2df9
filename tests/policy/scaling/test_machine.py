"""Scaling under any order of demands, edits, lost nodes and lost data: the promises hold."""

from collections import deque
from math import ceil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from policy.scaling.scaling_cases import DECODE, PREFILL, flips, need, scales
from policy.scaling.scaling_world import INTERVAL, World

from lengthwise_policy.scaling.policy import ScalingPolicy
from lengthwise_policy.scaling.scaler import Scaler
from lengthwise_policy.scaling.state import (
    Action,
    Demand,
    Group,
    Hold,
    Pool,
    PoolName,
    PoolState,
    Scale,
)
from lengthwise_policy.types import Role

POLICY = ScalingPolicy(
    scale_in_seconds=60.0,
    scale_to_zero_seconds=120.0,
    manual_hold_seconds=50.0,
    flip_seconds=20.0,
    unschedulable_seconds=60.0,
)

POOLS = (
    Pool(name="p", role="prefill", min_replicas=1, max_replicas=5, flexible=True),
    Pool(name="q", role="prefill", min_replicas=0, max_replicas=3),
    Pool(name="d", role="decode", min_replicas=0, max_replicas=4, flexible=True),
    Pool(name="e", role="decode", min_replicas=1, max_replicas=3, flexible=True),
)
GROUPS: dict[Role, Group] = {"prefill": PREFILL, "decode": DECODE}
WORKERS = st.just(0.0) | st.floats(0.01, 9.0)


def serving(states: list[PoolState], role: Role) -> int:
    return sum(pod.role == role and pod.phase == "ready" for s in states for pod in s.pods)


class ScalingMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.world = World(Scaler(POLICY), POOLS, {"p": 1, "q": 0, "d": 0, "e": 1})
        self.demands: dict[Group, Demand] = {PREFILL: need(0.5), DECODE: need(0.5)}
        self.past: dict[Role, deque[tuple[float, float]]] = {"prefill": deque(), "decode": deque()}
        self.edited_at: dict[PoolName, float] = {}
        self.ever_edited: set[PoolName] = set()
        self.seen: dict[PoolName, int] = {}  # replicas at the last look
        self.flipped: tuple[float, Role] | None = None

    @rule(role=st.sampled_from(["prefill", "decode"]), workers=WORKERS)
    def work_changes(self, role: Role, workers: float) -> None:
        self.demands[GROUPS[role]] = need(workers)

    @rule(role=st.sampled_from(["prefill", "decode"]))
    def data_is_lost(self, role: Role) -> None:
        self.demands.pop(GROUPS[role], None)

    @rule(name=st.sampled_from("pqde"), places=st.integers(0, 4))
    def nodes_come_and_go(self, name: str, places: int) -> None:
        self.world.places[name] = places if places < 4 else 100

    @rule(name=st.sampled_from("pqde"))
    def an_operator_pauses_or_resumes(self, name: str) -> None:
        self.world.paused ^= {name}

    @rule(name=st.sampled_from("pqde"), replicas=st.integers(0, 7))
    def an_operator_scales(self, name: str, replicas: int) -> None:
        """To a number that cannot be a write of the scaler that failed."""
        if replicas not in (self.world.replicas[name], self.seen.get(name, replicas)):
            self.world.replicas[name] = replicas
            self.world.reconcile(name)
            self.edited_at[name] = self.world.now + INTERVAL  # when it is seen
            self.ever_edited.add(name)
            self.time_passes(1)

    @rule(refuses=st.booleans())
    def workers_refuse_to_flip(self, refuses: bool) -> None:
        self.world.refusing = refuses

    @rule()
    def leadership_is_lost_and_comes_back(self) -> None:
        self.world.scaler.forget()
        self.edited_at.clear()
        self.seen.clear()
        self.flipped = None

    @rule(steps=st.integers(1, 30))
    def time_passes(self, steps: int) -> None:
        for _ in range(steps):
            before = self.world.states()
            actions = self.world.step(self.demands)
            self.seen = {state.pool.name: state.replicas for state in before}
            self.check(before, actions)

    def check(self, before: list[PoolState], actions: list[Action]) -> None:
        now = self.world.now
        for role, group in GROUPS.items():
            if group in self.demands:
                self.past[role].append((now, self.demands[group].workers))
            while self.past[role] and self.past[role][0][0] < now - POLICY.scale_in_seconds:
                self.past[role].popleft()
        last = [action for action in actions if isinstance(action, Scale | Hold)]
        assert [action.pool for action in last] == [pool.name for pool in POOLS]
        assert all(action.reason.startswith(f"{action.rule}: ") for action in actions)
        wanted = scales(actions)
        for state in before:
            if state.pool.name in wanted:
                self.check_scale(state, wanted[state.pool.name])
        for role in GROUPS:
            self.check_in(role, before, wanted)
        self.check_flips(before, actions)

    def check_scale(self, state: PoolState, replicas: int) -> None:
        pool = state.pool
        assert pool.min_replicas <= replicas <= pool.max_replicas
        assert pool.name not in self.world.paused
        within = pool.min_replicas <= state.replicas <= pool.max_replicas
        assert GROUPS[pool.role] in self.demands or not within, "its bounds need no demand"
        edited_at = self.edited_at.get(pool.name, -1000.0)
        assert self.world.now >= edited_at + POLICY.manual_hold_seconds

    def check_in(self, role: Role, before: list[PoolState], wanted: dict[str, int]) -> None:
        """Ready workers that go were not needed in all of the window."""
        pools = [state for state in before if state.pool.role == role]
        gone = {
            state.pool.name: min(state.replicas, state.pool.max_replicas) - wanted[state.pool.name]
            for state in pools
            if state.pool.name in wanted
        }
        if any(number > 0 for number in gone.values()):
            there = sum(
                min(wanted.get(state.pool.name, state.replicas), 100)
                for state in before
                if state.pool.role == role
            )
            away = sum(pod.role != role for state in pools for pod in state.pods)
            visitors = sum(
                pod.role == role
                for state in before
                if state.pool.role != role
                for pod in state.pods
            )
            largest = max(workers for _, workers in self.past[role])
            assert there + visitors >= ceil(largest - 1e-9) or away

    def check_flips(self, before: list[PoolState], actions: list[Action]) -> None:
        given: dict[Role, int] = {"prefill": 0, "decode": 0}
        by_name = {state.pool.name: state for state in before}
        for flip in flips(actions):
            assert by_name[flip.pool].pool.flexible
            assert flip.pool not in self.world.paused
            if self.flipped is not None and self.flipped[1] != flip.role:
                assert self.world.now - self.flipped[0] >= POLICY.flip_seconds
            self.flipped = (self.world.now, flip.role)
            given["decode" if flip.role == "prefill" else "prefill"] += 1
        after = self.world.states()
        for role, number in given.items():
            if number:
                needed = ceil(self.demands[GROUPS[role]].workers - 1e-9)
                refused = number if self.world.refusing else 0
                assert serving(after, role) - refused >= max(needed, 1)

    @invariant()
    def no_pool_has_more_pods_than_allowed_unless_an_operator_says_so(self) -> None:
        for pool in POOLS:
            if pool.name not in self.ever_edited:
                assert self.world.replicas[pool.name] <= pool.max_replicas


TestScaling = ScalingMachine.TestCase
TestScaling.settings = settings(max_examples=25, stateful_step_count=15, deadline=None)


def settled(world: World, demands: dict[Group, Demand], seconds: float) -> list[Action]:
    """What was still done after a long time, in a time as long as any window."""
    for _ in range(int(seconds / INTERVAL)):
        world.step(demands)
    done: list[Action] = []
    for _ in range(int(400 / INTERVAL)):
        actions = world.step(demands)
        done += [action for action in actions if not isinstance(action, Hold)]
    return done


STARTS = st.fixed_dictionaries(
    {
        "p": st.integers(1, 5),
        "q": st.integers(0, 3),
        "d": st.integers(0, 4),
        "e": st.integers(1, 3),
    }
)


@given(STARTS, WORKERS, WORKERS)
@settings(max_examples=10, deadline=None)
def test_a_constant_demand_reaches_a_state_that_stays(
    replicas: dict[str, int], prefill: float, decode: float
) -> None:
    world = World(Scaler(POLICY), POOLS, replicas)
    demands = {PREFILL: need(prefill), DECODE: need(decode)}
    assert settled(world, demands, 800.0) == []
    both: dict[Role, float] = {"prefill": prefill, "decode": decode}
    lacking = sum(
        max(ceil(workers - 1e-9) - serving(world.states(), role), 0)
        for role, workers in both.items()
    )
    room = sum(pool.max_replicas - world.replicas[pool.name] for pool in POOLS)
    assert not lacking or not room or max(both.values()) > 7


@pytest.mark.slow
@given(STARTS, st.floats(0.1, 6.0), st.floats(0.1, 6.0))
@settings(max_examples=8, deadline=None)
def test_demand_that_wavers_within_the_margin_makes_no_pod_come_and_go(
    replicas: dict[str, int], prefill: float, decode: float
) -> None:
    world = World(Scaler(POLICY), POOLS, replicas)
    settled(world, {PREFILL: need(prefill), DECODE: need(decode)}, 800.0)
    for index in range(200):
        share = (1.0, 0.94, 0.91, 0.97)[index % 4]
        actions = world.step({PREFILL: need(prefill * share), DECODE: need(decode * share)})
        assert all(isinstance(action, Hold) for action in actions)


@given(STARTS, st.floats(0.1, 5.0), st.integers(0, 3))
@settings(max_examples=8, deadline=None)
def test_pods_that_find_no_node_freeze_nothing(
    replicas: dict[str, int], workers: float, places: int
) -> None:
    """Whatever is stuck in one pool, the other helps out, and all is given back in the end."""
    world = World(Scaler(POLICY), POOLS, replicas)
    world.places["p"] = places
    world.places["d"] = 0
    demands = {PREFILL: need(workers), DECODE: need(0.5)}
    settled(world, demands, 600.0)
    reachable = min(ceil(workers - 1e-9), places + POOLS[1].max_replicas)
    assert serving(world.states(), "prefill") >= reachable
    demands = {PREFILL: need(0.5), DECODE: need(0.5)}
    assert settled(world, demands, 800.0) == []
    assert world.replicas["p"] + world.replicas["q"] <= max(1, places) + 1
    assert world.replicas["d"] + world.replicas["e"] <= 2

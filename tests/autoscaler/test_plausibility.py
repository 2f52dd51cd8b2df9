"""Numbers that no release has are named, and move nothing beyond its bounds."""

import math
from dataclasses import replace
from typing import Any

import pytest
from autoscaler.quiet_release import (
    ALL,
    POOLS,
    QUERY_NAMES,
    SETTLED,
    classed,
    read,
    vector,
    vectors,
)
from hypothesis import given
from hypothesis import strategies as st

from lengthwise_autoscaler.load.data_check import DECODE
from lengthwise_autoscaler.load.plausibility import MostWorkers
from lengthwise_autoscaler.load.prometheus import Row, Vector
from lengthwise_autoscaler.load.queries import QueryName
from lengthwise_policy.objectives import Objectives
from lengthwise_policy.scaling.demand import DemandPolicy, decode_demand, prefill_demand
from lengthwise_policy.scaling.policy import ScalingPolicy
from lengthwise_policy.scaling.scaler import Scaler
from lengthwise_policy.scaling.state import (
    DecodeLoad,
    Demand,
    Hold,
    Pod,
    PoolState,
    PrefillLoad,
    Scale,
)

numbers = st.floats() | st.floats(0, 100) | st.sampled_from([math.nan, math.inf, -1.0, 0.0, 1e308])
labels = st.dictionaries(
    st.sampled_from(["pod", "pool", "role", "length_class", "x"]),
    st.sampled_from(["prefill", "decode", "router-0", "short", "", "y"]),
    max_size=3,
)


@given(st.data())
def test_whatever_the_vectors_are_decisions_stay_within_their_bounds(data: st.DataObject) -> None:
    changed: dict[str, Any] = {}
    for name in data.draw(st.lists(st.sampled_from(QUERY_NAMES), max_size=3, unique=True)):
        rows = [
            Row(labels=row.labels, value=data.draw(numbers))
            for row in vectors()[name]
            if data.draw(st.integers(0, 9))
        ]
        if data.draw(st.booleans()):
            rows.append(Row(labels=data.draw(labels), value=data.draw(numbers)))
        changed[name] = tuple(rows)
    settled = data.draw(st.sampled_from([SETTLED, SETTLED[:1], SETTLED[:2], SETTLED[1:]]))
    reading = read(settled=settled, **changed)
    # What is not known is reported, unless there is no router to ask about.
    groups = {ALL, DECODE} - reading.loads.keys()
    assert not groups or reading.errors or SETTLED[0] not in settled
    demands = {group: demand_of(load) for group, load in reading.loads.items()}
    pools = [replace(pool, max_replicas=20) for pool in POOLS]
    states = [
        PoolState(pool=pool, replicas=2, pods=(Pod(name="0", role=pool.role, phase="ready"),))
        for pool in pools
    ]
    for action in Scaler(ScalingPolicy()).decide(0.0, states, demands):
        assert isinstance(action, Hold | Scale)
        assert isinstance(action, Hold) or 1 <= action.replicas <= 6, "at most four more"


def demand_of(load: PrefillLoad | DecodeLoad) -> Demand:
    policy = DemandPolicy(objectives=Objectives())
    if isinstance(load, PrefillLoad):
        return prefill_demand(load, policy, 1)
    return decode_demand(load, policy, 1)


IMPLAUSIBLE: dict[str, tuple[QueryName, Vector]] = {
    "more workers than pods": ("mean_workers", vector(8.0, {"pool": "decode", "role": "decode"})),
    "more workers report": ("decode_workers", vector(8.0, {"pool": "decode"})),
    "fewer workers report": ("decode_workers", vector(0.0, {"pool": "decode"})),
    "no blocks at all": ("decode_blocks", vector(0.0, {"pool": "decode"})),
    "busier than there are workers": ("prefill_busy", vector(8.0, *classed(pool="prefill"))),
    "hours of a token": ("tpot", vector(1e5)),
    "a negative time": ("ttft", vector(-1.0, *classed())),
    "half a scrape": ("scraped", vector(1.5, *({"pod": pod.name} for pod in SETTLED))),
    "as many as atoms": ("arrived_tokens", vector(1e30, *classed())),
    "less than nothing to speak of": ("arrived_requests", vector(1e-300, *classed())),
    "two of a kind": ("tpot", vector(0.02, {}, {})),
    "labels it did not ask for": ("tpot", vector(0.02, {"pool": "decode"})),
    "endless cost": ("cost", vector(1e308, {"pool": "decode", "role": "decode"})),
    "a pod's requests": ("pod_requests", vector(math.nan, {"pod": "decode-0"})),
}


@pytest.mark.parametrize(("name", "rows"), IMPLAUSIBLE.values(), ids=IMPLAUSIBLE.keys())
def test_what_no_release_has_is_named_and_believed_by_none(name: QueryName, rows: Vector) -> None:
    reading = read(**{name: rows})
    assert {error.reason for error in reading.errors} == {"data_implausible"}
    assert all(name in str(error) for error in reading.errors)
    assert len(reading.loads) < 2


def test_a_token_that_takes_minutes_is_not_believed() -> None:
    of_prefill = classed(pool="prefill")
    reading = read(prefill_tokens=vector(1e-9, *of_prefill), prefill_busy=vector(0.5, *of_prefill))
    assert [error.reason for error in reading.errors] == ["data_implausible"]
    assert list(reading.loads) == [DECODE]


def test_workers_that_have_left_may_be_counted_within_the_window() -> None:
    workers = MostWorkers(60.0)
    assert workers.see(0.0, {"decode": 8}) == {"decode": 13.0}
    assert workers.see(60.0, {"decode": 2}) == {"decode": 13.0}
    assert workers.see(61.0, {"decode": 2}) == {"decode": 4.0}

"""From vectors to loads: nothing missing becomes a zero, and nothing wrong becomes a load."""

import math
from typing import Any

import pytest
from autoscaler.quiet_release import (
    ALL,
    INTERVAL,
    MOST,
    POOLS,
    QUERY_NAMES,
    SETTLED,
    SHORT,
    classed,
    read,
    vector,
    vectors,
)

from lengthwise_autoscaler.load.data_check import DECODE, Settled
from lengthwise_autoscaler.load.prometheus import Row, Vector
from lengthwise_autoscaler.load.queries import QueryName
from lengthwise_autoscaler.load.readings import LoadReader, Reading
from lengthwise_policy.cost.model import PRIOR
from lengthwise_policy.scaling.state import DecodeLoad, Group, Pool, PrefillLoad


def prefill(reading: Reading, group: Group = ALL) -> PrefillLoad:
    load = reading.loads[group]
    assert isinstance(load, PrefillLoad)
    return load


def decode(reading: Reading) -> DecodeLoad:
    load = reading.loads[DECODE]
    assert isinstance(load, DecodeLoad)
    return load


def test_a_quiet_release_has_a_load_of_nothing() -> None:
    reading = read()
    assert not reading.errors
    load = prefill(reading)
    assert load.ttft_seconds == {"short": None, "long": None}
    assert load.queue_seconds == {"short": None, "long": None}
    assert load.arrived_tokens == {"short": 0.0, "long": 0.0}
    assert decode(reading).tpot_seconds is None
    assert decode(reading).output_tokens is None
    assert decode(reading).blocks_per_worker == 1000.0
    assert decode(reading).cost is None


def test_prompts_are_the_decode_workers_where_no_pool_computes_them() -> None:
    arrived = vector(100.0, *classed())
    assert decode(read(arrived_tokens=arrived)).prompt_tokens == 0.0
    alone = [pool for pool in POOLS if pool.role == "decode"]
    settled = [pod for pod in SETTLED if pod.role != "prefill"]
    reading = read(pools=alone, settled=settled, arrived_tokens=arrived)
    assert not reading.errors
    assert decode(reading).prompt_tokens == 200.0


@pytest.mark.parametrize(
    "name",
    [name for name in QUERY_NAMES if name not in ("pod_requests", "pod_cached")],
)
def test_no_query_without_result_gives_a_load_of_zero(name: QueryName) -> None:
    optional = ("cost", "mean_workers", "block_tokens")
    reading = read(**{name: ()})
    if name in optional:
        assert not reading.errors
        return
    (error,) = {(error.reason, name in str(error)) for error in reading.errors}
    assert error == ("data_missing", True)
    for_prefill = name.startswith("prefill") or name == "queue_seconds"
    for_decode = name.startswith("decode") or name == "generated_tokens"
    assert (ALL in reading.loads) == for_decode
    assert (DECODE in reading.loads) == for_prefill


@pytest.mark.parametrize(
    ("pod", "lost"),
    [
        pytest.param("router-0", {ALL, DECODE}, id="router"),
        pytest.param("prefill-0", {ALL}, id="prefill worker"),
        pytest.param("decode-0", {DECODE}, id="decode worker"),
    ],
)
@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        pytest.param("absent", "data_missing", id="no target"),
        pytest.param("failing", "data_missing", id="scrape fails"),
        pytest.param("old", "data_stale", id="old samples"),
    ],
)
def test_a_ready_pod_that_is_not_scraped_costs_its_groups_load(
    pod: str, lost: set[Group], fault: str, reason: str
) -> None:
    def rows(value: float, own: float) -> Vector:
        return tuple(
            Row(labels={"pod": each.name}, value=own if each.name == pod else value)
            for each in SETTLED
            if not (each.name == pod and fault == "absent")
        )

    age = 3 * INTERVAL + 0.1 if fault == "old" else 1.0
    reading = read(sample_age=rows(1.0, age), scraped=rows(1.0, 0.0 if fault == "failing" else 1.0))
    assert {ALL, DECODE} - reading.loads.keys() == lost
    (error,) = reading.errors
    assert error.reason == reason
    assert pod in str(error)


def test_a_pod_that_has_just_become_ready_is_not_waited_for() -> None:
    reading = read(
        settled=SETTLED[:1],
        sample_age=vector(1.0, {"pod": "router-0"}),
        scraped=vector(1.0, {"pod": "router-0"}),
        arrived_tokens=vector(100.0, *classed()),
        **dict.fromkeys(("prefill_tokens", "prefill_busy", "queue_seconds", "queued_tokens"), ()),
        **{name: () for name in QUERY_NAMES if name.startswith("decode")},
        generated_tokens=(),
    )
    assert not reading.errors
    assert prefill(reading).arrived_tokens == {"short": 100.0, "long": 100.0}
    assert decode(reading).blocks_per_worker == 0.0


def test_without_a_settled_router_nothing_is_known_and_nothing_is_wrong() -> None:
    assert read(settled=SETTLED[1:]) == Reading(loads={}, errors=())


def test_what_a_token_takes_is_measured_then_fitted_then_remembered_then_assumed() -> None:
    reader = LoadReader(POOLS, INTERVAL)

    def seconds(**changed: Any) -> float:
        load = reader.read(vectors(**changed), SETTLED, MOST).loads[ALL]
        assert isinstance(load, PrefillLoad)
        return load.token_seconds["long"]

    assert seconds() == pytest.approx(PRIOR.prefill_seconds(1024) / 1024)
    arrived = {
        "arrived_requests": vector(2.0, *classed()),
        "arrived_tokens": vector(4000.0, *classed()),
    }
    assert seconds(**arrived) == pytest.approx(PRIOR.prefill_seconds(2000) / 2000)
    labels = {"pool": "prefill", "role": "prefill"}
    fitted = (
        *vector(1e-4, {**labels, "coefficient": "token"}),
        *vector(0.1, {**labels, "coefficient": "step"}),
    )
    assert seconds(cost=fitted) == pytest.approx((0.1 + 1024e-4) / 1024)
    measured = {
        "prefill_tokens": vector(1000.0, *classed(pool="prefill")),
        "prefill_busy": vector(0.5, *classed(pool="prefill")),
    }
    assert seconds(cost=fitted, **measured) == pytest.approx(5e-4)
    assert seconds() == pytest.approx(5e-4), "remembered"


def test_lengths_without_a_pool_of_their_own_go_to_the_pools_of_all_lengths() -> None:
    pools = [
        Pool(name="prefill", role="prefill"),
        Pool(name="quick", role="prefill", length_class="short"),
    ]
    settled = [*SETTLED[:2], Settled(name="quick-0", pool="quick", role="prefill")]
    pods = [{"pod": pod.name} for pod in settled]
    both = [*classed(pool="prefill"), *classed(pool="quick")]
    reading = read(
        settled=settled,
        pools=pools,
        sample_age=vector(1.0, *pods),
        scraped=vector(1.0, *pods),
        arrived_tokens=(
            *vector(10.0, {"length_class": "short"}),
            *vector(1000.0, {"length_class": "long"}),
        ),
        prefill_tokens=vector(0.0, *both),
        prefill_busy=vector(0.0, *both),
        queue_seconds=vector(math.nan, *both),
        queued_tokens=vector(7.0, *classed(pool="prefill", role="prefill"))
        + vector(3.0, *classed(pool="quick", role="prefill")),
    )
    assert not reading.errors
    assert prefill(reading, SHORT).arrived_tokens == {"short": 10.0}
    assert prefill(reading, SHORT).queued_tokens == {"short": 3.0}
    assert prefill(reading, ALL).arrived_tokens == {"long": 1000.0}
    assert prefill(reading, ALL).queued_tokens == {"long": 7.0}


def test_a_flexible_pool_is_read_by_the_roles_its_workers_have() -> None:
    pools = [
        Pool(name="prefill", role="prefill"),
        Pool(name="decode", role="decode", flexible=True),
    ]
    visitor = Settled(name="decode-0", pool="decode", role="prefill")
    settled = [*SETTLED[:2], visitor]
    both = [*classed(pool="prefill"), *classed(pool="decode")]
    reading = read(
        settled=settled,
        pools=pools,
        prefill_tokens=vector(100.0, *both),
        prefill_busy=vector(0.2, *both),
        queue_seconds=vector(0.5, *both),
        queued_tokens=vector(4.0, *(each | {"role": "prefill"} for each in both)),
        **{
            name: ()
            for name in QUERY_NAMES
            if name.startswith("decode") or name in ("generated_tokens", "mean_workers")
        },
    )
    assert not reading.errors
    assert prefill(reading).queued_tokens == {"short": 8.0, "long": 8.0}
    assert decode(reading).running_requests == 0.0


@pytest.mark.parametrize("value", [math.nan, math.inf, -1.0])
@pytest.mark.parametrize(
    ("name", "labels", "lost"),
    [
        pytest.param("arrived_tokens", classed(), {ALL, DECODE}, id="routers'"),
        pytest.param("prefill_busy", classed(pool="prefill"), {ALL}, id="prefill pool's"),
        pytest.param("decode_running", [{"pool": "decode"}], {DECODE}, id="decode pool's"),
    ],
)
def test_a_number_that_is_no_amount_costs_its_groups_load(
    name: str, labels: list[dict[str, str]], value: float, lost: set[Group]
) -> None:
    reading = read(**{name: vector(value, *labels)})
    assert {ALL, DECODE} - reading.loads.keys() == lost
    assert [error.reason for error in reading.errors] == ["data_implausible"]
    assert name in str(reading.errors[0])

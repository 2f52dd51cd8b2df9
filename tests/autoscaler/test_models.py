"""Models of one release: each pool's load is that of its model alone."""

import math
from typing import Any

import pytest
from autoscaler.quiet_release import ALL, INTERVAL, MOST, POOLS, SETTLED, vectors

from lengthwise_autoscaler.load.data_check import DECODE
from lengthwise_autoscaler.load.prometheus import Row, Vector
from lengthwise_autoscaler.load.queries import OF_MODELS, QueryName
from lengthwise_autoscaler.load.readings import LoadReader, Reading
from lengthwise_policy.scaling.state import DecodeLoad, PrefillLoad


def of_models(**values: dict[str, float]) -> dict[QueryName, Vector]:
    """A quiet release of models a and b but for these values by query and model."""
    changed: dict[str, Any] = {}
    for name in OF_MODELS:
        changed[name] = tuple(
            Row(
                labels={**row.labels, "model": model},
                value=values.get(name, {}).get(model, row.value),
            )
            for row in vectors()[name]
            for model in ("a", "b")
        )
    return vectors(**changed)


def read(model: str, data: dict[QueryName, Vector]) -> Reading:
    return LoadReader(POOLS, INTERVAL, model).read(data, SETTLED, MOST)


def test_what_arrives_for_one_model_is_no_others_load() -> None:
    data = of_models(
        arrived_tokens={"a": 900.0},
        ttft={"a": 3.0},
        waiting_requests={"a": 7.0, "b": 1.0},
        tpot={"b": 0.5},
    )
    for model, arrived, ttft, waiting, tpot in (
        ("a", 900.0, 3.0, 7.0, None),
        ("b", 0.0, None, 1.0, 0.5),
    ):
        reading = read(model, data)
        assert not reading.errors
        prefill, decode = reading.loads[ALL], reading.loads[DECODE]
        assert isinstance(prefill, PrefillLoad)
        assert isinstance(decode, DecodeLoad)
        assert prefill.arrived_tokens["short"] == arrived
        assert prefill.ttft_seconds["short"] == ttft
        assert (prefill.waiting_requests, decode.waiting_requests) == (waiting, waiting)
        assert decode.tpot_seconds == tpot


def test_a_model_that_no_router_counts_has_no_load() -> None:
    """Another name, or routers of an older version: nothing is scaled by a guess."""
    (error,) = read("c", of_models()).errors
    assert error.reason == "data_missing"


def test_what_no_release_has_costs_its_own_model() -> None:
    data = of_models(arrived_tokens={"a": math.inf})
    assert not read("a", data).loads
    assert read("b", data).loads.keys() == {ALL, DECODE}


@pytest.mark.parametrize("model", ["a", "b"])
def test_the_only_model_need_not_be_named(model: str) -> None:
    data = {
        name: tuple(row for row in rows if row.label("model") in ("", model))
        for name, rows in of_models(waiting_requests={model: 5.0}).items()
    }
    load = read("", data).loads[ALL]
    assert isinstance(load, PrefillLoad)
    assert load.waiting_requests == 5.0


def test_pools_that_name_no_model_are_held_where_there_are_two() -> None:
    reading = read("", of_models())
    (error,) = reading.errors
    assert error.reason == "data_implausible"
    assert not reading.loads

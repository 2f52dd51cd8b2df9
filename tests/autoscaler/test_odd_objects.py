"""Whatever an API server answers, an object is read as it is or is one error that is reported."""

import asyncio
import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from harness.kubernetes_api import Server
from harness.kubernetes_objects import RELEASE, FakeObjects, deployment, pod
from harness.prometheus import NAMESPACE
from harness.waiting import eventually
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from lengthwise_autoscaler.config import PoolConfig
from lengthwise_autoscaler.errors import MAX_TEXT, ScalingError
from lengthwise_autoscaler.kubernetes.api_server import ApiServer, reading
from lengthwise_autoscaler.kubernetes.cluster import Cluster
from lengthwise_autoscaler.kubernetes.leadership import Leadership
from lengthwise_autoscaler.kubernetes.pods import read_deployment, read_pods
from lengthwise_autoscaler.kubernetes.reporter import Reporter
from lengthwise_autoscaler.metrics import AutoscalerMetrics

POOL = PoolConfig(name="prefill", deployment="d", role="prefill")

ANSWERS = (
    "[" * 100_000,
    "null",
    "[]",
    "{}",
    "<html>",
    json.dumps({"items": "pods", "metadata": {"name": "d"}}),
    json.dumps({"items": [1, None], "metadata": {"name": "d"}}),
    json.dumps({"items": [], "metadata": {"name": "d", "continue": "more"}}),
    json.dumps({"items": [{"metadata": "x"}], "metadata": "y", "spec": "z"}),
)


@pytest.mark.parametrize("status", [200, 409, 410, 429, 500])
async def test_an_answer_of_an_odd_shape_is_an_error_and_nothing_else(
    server: Server, objects: FakeObjects, status: int
) -> None:
    api = ApiServer(server.configuration, NAMESPACE)
    objects.status = status
    for objects.garbage in ANSWERS:
        with pytest.raises(ScalingError) as caught:
            await Cluster(api, RELEASE, [POOL]).look()
        assert caught.value.reason == "api_server_unreachable"
        assert len(str(caught.value)) <= MAX_TEXT
    await api.close()


json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["name", "type", "status", "x"]), inner, max_size=3)
    ),
    max_leaves=8,
)


def _places(item: Any, way: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The ways to all values within an object."""
    inner: Any = ()
    if isinstance(item, dict | list):
        inner = item.items() if isinstance(item, dict) else enumerate(item)
    return [way, *(found for key, value in inner for found in _places(value, (*way, key)))]


@pytest.mark.parametrize(
    ("make", "read"),
    [
        pytest.param(
            lambda: pod("w", pool="prefill", address="10.0.0.7:1"),
            lambda item: read_pods([item], time.time()),
            id="pod",
        ),
        pytest.param(
            lambda: deployment("d", 2, a="b") | {"metadata": {"name": "d", "resourceVersion": "1"}},
            lambda item: read_deployment(item, "d"),
            id="deployment",
        ),
    ],
)
@given(data=st.data())
def test_an_object_with_any_value_in_any_place_is_read_or_refused(
    make: Callable[[], Any], read: Callable[[Any], Any], data: st.DataObject
) -> None:
    whole = {"it": make()}
    for _ in range(data.draw(st.integers(1, 3))):
        *way, last = data.draw(st.sampled_from(_places(whole["it"], ("it",))))
        place: Any = whole
        for key in way:
            place = place[key]
        place[last] = data.draw(json_values)
    try:
        with reading("it"):
            found = read(whole["it"])
    except ScalingError:
        return
    hash(found)  # every field is what its type says, or hashable at least
    if isinstance(found, tuple):
        assert all(isinstance(each.pool, str) for each in found)
    else:
        assert 0 <= found.replicas < 2**31


@pytest.mark.parametrize("replicas", [-1, 2**31, 10**308, 1e308, True, "3", None, [], 2.0])
def test_replicas_that_no_deployment_has_are_refused(replicas: object) -> None:
    item = deployment("d", 1)
    item["metadata"]["resourceVersion"] = "1"
    item["spec"]["replicas"] = replicas
    with pytest.raises(ScalingError, match="replicas"), reading("it"):
        read_deployment(item, "d")


def test_another_deployment_than_was_asked_for_is_refused() -> None:
    """Its name would be written to."""
    item = deployment("other", 1)
    item["metadata"]["resourceVersion"] = "1"
    with pytest.raises(ScalingError, match="it is 'other'"), reading("it"):
        read_deployment(item, "d")


def test_pods_of_one_name_and_pods_of_the_future_are_refused() -> None:
    for items in ([pod("w"), pod("w")], [pod("w", ready=-3600.0)]):
        with pytest.raises(ScalingError, match=r"same name|has not come yet"), reading("pods"):
            read_pods(items, time.time())


@pytest.mark.parametrize(
    "spec",
    [
        pytest.param("text", id="text"),
        pytest.param({"holderIdentity": ["b"], "leaseDurationSeconds": "x"}, id="no number"),
        pytest.param({"holderIdentity": "a", "leaseDurationSeconds": -1}, id="negative"),
        pytest.param({"holderIdentity": "a", "leaseDurationSeconds": 1e308}, id="for ever"),
        pytest.param({"holderIdentity": "", "leaseTransitions": "x"}, id="transitions"),
    ],
)
async def test_a_lease_that_is_none_is_reported_and_tried_again(
    server: Server, objects: FakeObjects, spec: object
) -> None:
    objects.put("leases", {"metadata": {"name": "lease"}, "spec": spec})
    registry = CollectorRegistry()
    api = ApiServer(server.configuration, NAMESPACE)
    metrics = AutoscalerMetrics(registry, [], is_dry_run=False)
    leadership = Leadership(api, Reporter(api, metrics, {}, writes_events=False), lease="lease")
    running = asyncio.create_task(leadership.run())
    reason = {"reason": "api_server_unreachable"}
    name = "lengthwise_scaling_errors_total"
    await eventually(lambda: registry.get_sample_value(name, reason))
    assert not leadership.is_leader
    assert not running.done()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await api.close()

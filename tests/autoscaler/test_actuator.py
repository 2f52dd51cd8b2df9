"""What is written, in which order, and what is left alone."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from harness.kubernetes_api import Server
from harness.kubernetes_objects import RELEASE, deployment, pod
from harness.prometheus import NAMESPACE
from harness.waiting import eventually
from prometheus_client import CollectorRegistry

from lengthwise_autoscaler.config import PoolConfig
from lengthwise_autoscaler.errors import ScalingError
from lengthwise_autoscaler.kubernetes.actuator import Actuator
from lengthwise_autoscaler.kubernetes.api_server import ApiServer
from lengthwise_autoscaler.kubernetes.cluster import Cluster, ClusterView
from lengthwise_autoscaler.kubernetes.reporter import Reporter
from lengthwise_autoscaler.kubernetes.roles import FlexibleWorkers
from lengthwise_autoscaler.metrics import AutoscalerMetrics
from lengthwise_policy.scaling.state import Scale
from lengthwise_runtime.channel import open_channel

POOL = PoolConfig(name="prefill", deployment="demo-prefill", role="prefill", max_replicas=9)

COST = "controller.kubernetes.io/pod-deletion-cost"


class Rig:
    """An actuator of one pool with three pods."""

    def __init__(self, server: Server) -> None:
        self.objects = server.objects
        self.leads = True
        self.registry = CollectorRegistry()
        self.api = ApiServer(server.configuration, NAMESPACE)
        metrics = AutoscalerMetrics(self.registry, [POOL.pool], is_dry_run=False)
        self.reporter = Reporter(self.api, metrics, {"prefill": "demo-prefill"}, writes_events=True)
        self.cluster = Cluster(self.api, RELEASE, [POOL])
        self.actuator = Actuator(
            self.api,
            self.cluster,
            FlexibleWorkers(lambda address: open_channel(address, None)),
            {"prefill": POOL},
            reporter=self.reporter,
            metrics=metrics,
            is_leader=lambda: self.leads,
        )
        self.objects.put("deployments", deployment("demo-prefill", 3))
        for number in range(3):
            self.objects.put("pods", pod(f"w{number}", pool="prefill"))

    async def look(self) -> ClusterView:
        view = await self.cluster.look()
        self.objects.requests.clear()
        return view

    def actions(self, action: str) -> float:
        labels = {"pool": "prefill", "action": action, "reason": "bounds"}
        return self.registry.get_sample_value("lengthwise_scaling_actions_total", labels) or 0.0


@pytest.fixture
async def rig(server: Server) -> AsyncIterator[Rig]:
    rig = Rig(server)
    writing = asyncio.create_task(rig.reporter.run())
    yield rig
    writing.cancel()
    await asyncio.gather(writing, return_exceptions=True)
    await rig.api.close()


def scale(replicas: int, *leaving: str) -> Scale:
    return Scale(
        pool="prefill",
        replicas=replicas,
        rule="bounds",
        reason="bounds: numbers",
        leaving=leaving,
    )


async def test_out_is_one_write(rig: Rig) -> None:
    view = await rig.look()
    await rig.actuator.scale(scale(5), view)
    assert rig.objects.replicas("demo-prefill") == 5
    assert rig.objects.requests[0] == "patch deployments/scale"
    assert rig.objects.costs() == {}
    assert rig.actions("out") == 1
    await eventually(lambda: rig.objects.events("ScaledOut"))
    (event,) = rig.objects.objects["events"].values()
    assert event["message"] == "scaled out from 3 to 5: bounds: numbers"
    assert event["involvedObject"]["name"] == "demo-prefill"


async def test_on_the_way_in_those_that_leave_are_marked_before_replicas_are_written(
    rig: Rig,
) -> None:
    rig.objects.put("pods", pod("w0", pool="prefill", annotations={COST: "-7", "other": "kept"}))
    view = await rig.look()
    await rig.actuator.scale(scale(1, "w2", "w1"), view)
    assert rig.objects.costs() == {"w2": "-2", "w1": "-1"}, "the cheapest lowest, old ones gone"
    kept = rig.objects.get("pods", "w0")["metadata"]["annotations"]
    assert kept == {"other": "kept"}
    assert rig.objects.requests[:4] == ["patch pods"] * 3 + ["patch deployments/scale"]
    assert rig.objects.replicas("demo-prefill") == 1
    assert rig.objects.settle("demo-prefill", "prefill", lambda _: pod("new"))[1] == ["w2", "w1"]
    assert rig.actions("in") == 1


async def test_what_an_operator_wrote_in_between_stands(rig: Rig) -> None:
    view = await rig.look()
    rig.objects.edit("demo-prefill", 7)
    await rig.actuator.scale(scale(5), view)
    assert rig.objects.replicas("demo-prefill") == 7
    assert rig.actions("out") == 0
    assert rig.objects.events() == []


async def test_a_pause_in_between_is_heeded(rig: Rig) -> None:
    view = await rig.look()
    rig.objects.put(
        "deployments", deployment("demo-prefill", 3, **{"lengthwise/autoscale": "paused"})
    )
    await rig.actuator.scale(scale(5), view)
    assert rig.objects.replicas("demo-prefill") == 3


async def test_a_deployment_made_anew_in_between_is_left_alone(rig: Rig) -> None:
    view = await rig.look()
    anew = deployment("demo-prefill", 3)
    anew["metadata"]["uid"] = "another"
    rig.objects.put("deployments", anew)
    await rig.actuator.scale(scale(5), view)
    assert rig.objects.replicas("demo-prefill") == 3


async def test_a_changed_status_does_not_keep_it_from_writing(rig: Rig) -> None:
    view = await rig.look()
    left = 2

    def change(what: str) -> None:
        nonlocal left
        if left and what == "patch deployments/scale":
            left -= 1
            rig.objects.put("deployments", rig.objects.get("deployments", "demo-prefill"))

    rig.objects.before_write = change
    await rig.actuator.scale(scale(5), view)
    assert rig.objects.replicas("demo-prefill") == 5
    assert rig.objects.requests.count("patch deployments/scale") == 3


async def test_a_deployment_that_never_rests_is_given_up_for_now(rig: Rig) -> None:
    view = await rig.look()

    def change(_: str) -> None:
        rig.objects.put("deployments", rig.objects.get("deployments", "demo-prefill"))

    rig.objects.before_write = change
    await rig.actuator.scale(scale(5), view)
    assert rig.objects.replicas("demo-prefill") == 3
    assert rig.objects.requests.count("patch deployments/scale") == 4


async def test_without_leadership_nothing_is_written(rig: Rig) -> None:
    view = await rig.look()
    rig.leads = False
    await rig.actuator.scale(scale(1, "w0", "w1"), view)
    await rig.actuator.scale(scale(5), view)
    assert rig.objects.requests == []


async def test_leadership_lost_while_pods_are_marked_ends_the_action(rig: Rig) -> None:
    view = await rig.look()

    def lose(_: str) -> None:
        rig.leads = False

    rig.objects.before_write = lose
    await rig.actuator.scale(scale(2, "w0"), view)
    assert rig.objects.requests == ["patch pods"]
    assert rig.objects.replicas("demo-prefill") == 3


async def test_pods_that_may_not_be_marked_keep_the_wrong_ones_from_leaving(rig: Rig) -> None:
    view = await rig.look()
    rig.objects.forbidden = {"patch pods"}
    with pytest.raises(ScalingError, match="not allowed to patch pods 'w0'") as caught:
        await rig.actuator.scale(scale(2, "w0"), view)
    assert (caught.value.reason, caught.value.pool) == ("forbidden", "prefill")
    assert rig.objects.replicas("demo-prefill") == 3


async def test_a_pod_that_has_left_already_needs_no_mark(rig: Rig) -> None:
    view = await rig.look()
    rig.objects.remove("pods", "w0")
    await rig.actuator.scale(scale(1, "w0", "w1"), view)
    assert rig.objects.costs() == {"w1": "-1"}
    assert rig.objects.replicas("demo-prefill") == 1


@pytest.mark.parametrize(
    ("fault", "reason"),
    [("forbidden", "forbidden"), ("broken", "api_server_unreachable")],
)
async def test_a_refused_write_is_reported_with_its_pool(rig: Rig, fault: str, reason: str) -> None:
    view = await rig.look()
    setattr(rig.objects, fault, {"patch deployments/scale"})
    with pytest.raises(ScalingError, match="patch deployments/scale") as caught:
        await rig.actuator.scale(scale(5), view)
    assert (caught.value.reason, caught.value.pool) == (reason, "prefill")


async def test_a_pool_without_deployment_does_not_hide_the_others(rig: Rig, server: Server) -> None:
    cluster = Cluster(
        rig.api, RELEASE, [POOL, PoolConfig(name="x", deployment="gone", role="decode")]
    )
    view = await cluster.look()
    assert list(view.deployments) == ["prefill"]
    (error,) = view.errors
    assert (error.reason, error.pool) == ("unknown_pool", "x")
    assert "no Deployment 'gone' in namespace 'llm'" in str(error)


async def test_pods_of_other_releases_are_not_seen(rig: Rig) -> None:
    rig.objects.put("pods", pod("stranger", pool="prefill", release="other"))
    view = await rig.look()
    assert {each.name for each in view.pods} == {"w0", "w1", "w2"}


@pytest.mark.parametrize(
    "garbage", ["<html>", "[]", "null", '{"items": [{}]}', '{"items": 7}', "\x00"]
)
async def test_an_answer_that_is_none_of_an_api_server_is_reported(rig: Rig, garbage: str) -> None:
    rig.objects.garbage = garbage
    with pytest.raises(ScalingError, match="cannot") as caught:
        await rig.cluster.look()
    assert caught.value.reason == "api_server_unreachable"

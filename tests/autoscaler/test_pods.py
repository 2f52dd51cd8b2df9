"""What the API server's JSON says of pods and Deployments."""

import time
from collections.abc import Callable
from typing import Any

import pytest
from harness.kubernetes_objects import ago, deployment, pod

from lengthwise_autoscaler.kubernetes.pods import ReleasePod, read_deployment, read_pods


def read(item: dict[str, Any]) -> ReleasePod:
    (found,) = read_pods([item], time.time())
    return found


def waiting(reason: str) -> dict[str, Any]:
    item = pod("w", pool="prefill", ready=None)
    item["status"]["containerStatuses"] = [{"state": {"waiting": {"reason": reason}}}]
    return item


def unscheduled(seconds: float, reason: str = "Unschedulable") -> dict[str, Any]:
    item = pod("w", pool="prefill", ready=None)
    item["status"]["conditions"] = [
        {
            "type": "PodScheduled",
            "status": "False",
            "reason": reason,
            "lastTransitionTime": ago(seconds),
        }
    ]
    return item


def leaving() -> dict[str, Any]:
    item = pod("w", pool="prefill")
    item["metadata"]["deletionTimestamp"] = ago(1)
    return item


def young(item: dict[str, Any]) -> dict[str, Any]:
    item["metadata"]["creationTimestamp"] = ago(1)
    return item


# Made when a test runs: they tell how long ago things were.
PODS = {
    "ready": (lambda: pod("w"), "ready"),
    "not ready": (lambda: pod("w", ready=None), "starting"),
    "deleted and still ready": (leaving, "leaving"),
    "unscheduled for a moment": (lambda: unscheduled(1), "starting"),
    "unscheduled for long": (lambda: unscheduled(60), "unschedulable"),
    "gated": (lambda: unscheduled(60, "SchedulingGated"), "unschedulable"),
    "being created": (lambda: waiting("ContainerCreating"), "starting"),
    "no image": (lambda: waiting("ImagePullBackOff"), "unschedulable"),
    "crashes": (lambda: waiting("CrashLoopBackOff"), "unschedulable"),
    "no image, just made": (lambda: young(waiting("ErrImagePull")), "starting"),
    "nothing known": (lambda: {"metadata": {"name": "w"}}, "starting"),
    "nulls": (lambda: {"metadata": {"name": "w"}, "status": {"conditions": None}}, "starting"),
}


@pytest.mark.parametrize(("make", "phase"), PODS.values(), ids=PODS.keys())
def test_a_pods_phase(make: Callable[[], dict[str, Any]], phase: str) -> None:
    assert read(make()).phase == phase


@pytest.mark.parametrize("phase", ["Failed", "Succeeded"])
def test_pods_that_have_ended_are_no_pods(phase: str) -> None:
    item = pod("w")
    item["status"]["phase"] = phase
    assert read_pods([item], time.time()) == ()


def test_a_pods_labels_address_and_cost_are_read() -> None:
    found = read(
        pod(
            "w",
            pool="prefill",
            address="10.0.0.7:50051",
            annotations={"controller.kubernetes.io/pod-deletion-cost": "-1"},
        )
    )
    assert (found.pool, found.component, found.address) == ("prefill", "worker", "10.0.0.7:50051")
    assert found.has_cost
    assert found.ready_at == pytest.approx(time.time() - 60, abs=3)
    assert read(pod("w")).address == ""


@pytest.mark.parametrize(
    ("annotations", "paused"),
    [
        ({}, False),
        ({"lengthwise/autoscale": "paused"}, True),
        ({"lengthwise/autoscale": ""}, False),
    ],
)
def test_a_deployments_replicas_and_pause_are_read(
    annotations: dict[str, str], paused: bool
) -> None:
    item = deployment("d", 3, **annotations)
    item["metadata"]["resourceVersion"] = "7"
    found = read_deployment(item, "d")
    assert (found.replicas, found.version, found.paused) == (3, "7", paused)
    del item["spec"]["replicas"]
    assert read_deployment(item, "d").replicas == 1, "Kubernetes' default"

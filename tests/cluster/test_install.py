"""The chart on a real cluster: it answers, its rights are the least, it leaves nothing behind."""

import json
from datetime import datetime

import pytest
from harness.cluster_load import Cost, StartLoad, assert_none_failed
from harness.kubectl import CHART, CommandFailed, Release, image_values, new_namespace, wait_for

LAPTOP = f"--values={CHART.parent / 'values' / 'laptop.yaml'}"

ALL_KINDS = (
    "deployments,replicasets,pods,services,endpointslices,configmaps,secrets,serviceaccounts,"
    "roles,rolebindings,poddisruptionbudgets,networkpolicies"
)


def test_a_completion_is_answered_through_the_service(release: Release) -> None:
    assert "Succeeded" in release.test()


def test_clients_are_answered_through_the_headless_name(start_load: StartLoad, cost: Cost) -> None:
    load = start_load()
    load.wait_for_answers(20)
    answers = load.stop()
    cost(answers)
    assert_none_failed(answers)


def test_a_new_worker_is_used_as_soon_as_it_is_ready(release: Release) -> None:
    namespace, pool = release.namespace, release.pool("prefill")
    release.wait_until_ready()
    known = namespace.ready_pods(pool)
    logs = [lines_of(release, router) for router in namespace.ready_pods(release.routers)]
    namespace.kubectl("delete", "pod", known[0], "--wait=false")
    wait_for("a new pod", lambda: set(namespace.ready_pods(pool)) - set(known), 90)
    release.wait_until_ready()
    (new,) = set(namespace.ready_pods(pool)) - set(known)
    ready = condition_time(release, new)
    for router, before in zip(namespace.ready_pods(release.routers), logs, strict=True):

        def used(router: str = router, before: int = before) -> list[str]:
            lines = timed_lines(release, router)[before:]
            return [line for line in lines if "prefill" in line and "is ready" in line]

        wait_for("its use", used, 10)
        # Kubernetes tells whole seconds: Ready may be up to one later than it says.
        assert seconds_between(ready, used()[-1].split()[0]) < 2.0


def test_the_routers_may_list_and_watch_endpointslices_and_nothing_else(release: Release) -> None:
    account = f"system:serviceaccount:{release.namespace.name}:{release.fullname}-router"

    def may(verb: str, resource: str) -> bool:
        try:
            release.namespace.kubectl("auth", "can-i", verb, resource, f"--as={account}")
        except CommandFailed:
            return False
        return True

    slices = "endpointslices.discovery.k8s.io"
    assert may("list", slices)
    assert may("watch", slices)
    for verb in ("create", "update", "patch", "delete", "get"):
        assert not may(verb, slices)
    for resource in ("pods", "secrets", "configmaps", "services", "deployments.apps"):
        for verb in ("get", "list", "create", "delete"):
            assert not may(verb, resource)


def test_workers_have_no_token(release: Release) -> None:
    (pod, *_) = release.namespace.ready_pods(release.pool("decode"))
    with pytest.raises(CommandFailed):
        release.namespace.kubectl(
            "exec", pod, "--", "ls", "/var/run/secrets/kubernetes.io/serviceaccount/token"
        )


def test_what_is_uninstalled_leaves_nothing(image: str) -> None:
    with new_namespace() as namespace:
        wait_for("the namespace's own objects", lambda: len(namespace.names(ALL_KINDS)) == 2, 30)
        before = namespace.names(ALL_KINDS)
        release = Release(name="brief", namespace=namespace)
        release.install([LAPTOP, *image_values(image)])
        release.test()
        release.uninstall()
        wait_for("nothing left", lambda: namespace.names(ALL_KINDS) == before, 60)


def test_a_router_without_rights_says_which_it_lacks(image: str) -> None:
    with new_namespace() as namespace:
        release = Release(name="mute", namespace=namespace)
        try:
            release.install([LAPTOP, *image_values(image)])
            namespace.kubectl("delete", "rolebinding", f"{release.fullname}-router")
            namespace.kubectl("delete", "pod", "--selector", release.routers)
            told = "not allowed to list endpointslices (discovery.k8s.io)"
            logs = ("logs", "--selector", release.routers, "--tail=-1")
            wait_for("the router's complaint", lambda: told in namespace.kubectl(*logs), 60)
        finally:
            release.uninstall()


def timed_lines(release: Release, pod: str) -> list[str]:
    """A pod's log; each line begins with its time."""
    return release.namespace.kubectl("logs", pod, "--timestamps").splitlines()


def lines_of(release: Release, pod: str) -> int:
    return len(timed_lines(release, pod))


def condition_time(release: Release, pod: str) -> str:
    """When a pod turned ready."""
    found = json.loads(release.namespace.kubectl("get", "pod", pod, "--output=json"))
    (ready,) = (each for each in found["status"]["conditions"] if each["type"] == "Ready")
    return str(ready["lastTransitionTime"])


def seconds_between(earlier: str, later: str) -> float:
    """Of two times as Kubernetes writes them."""
    begin, end = (datetime.fromisoformat(text[:26].rstrip("Z")) for text in (earlier, later))
    return (end - begin).total_seconds()

"""The chart on a real cluster: it answers, and goes on answering while its pods are taken away.

The order is the file's: what is installed first is uninstalled last, by the fixture's own test.
"""

import os
import signal
import time
from pathlib import Path

import psutil
import pytest
from harness.cluster_load import Answer, Cost, StartLoad
from harness.kubectl import CHART, Release, image_values, new_namespace, run, wait_for

NUM_PODS = 2
"""Of the routers and of each pool; see values.yaml."""

ANSWERED_SECONDS = 30.0
"""The longest that any request may take, whatever happens meanwhile, on a busy machine of two
cores. Without an event it is about one."""


def assert_none_failed(answers: list[Answer]) -> None:
    failed = [answer.error for answer in answers if answer.error]
    assert not failed, f"{len(failed)} of {len(answers)} requests failed: {failed[:3]}"
    assert max(answer.total for answer in answers) < ANSWERED_SECONDS


def assert_all_ready(release: Release) -> None:
    for selector in (release.routers, release.pool("prefill"), release.pool("decode")):
        wait_for(
            f"{NUM_PODS} ready pods of {selector}",
            lambda selector=selector: len(release.namespace.ready_pods(selector)) == NUM_PODS,  # type: ignore[misc]
            120,
        )


def test_a_completion_is_answered_through_the_service(release: Release) -> None:
    assert "Succeeded" in release.test()


def test_clients_are_answered_through_the_headless_name(start_load: StartLoad, cost: Cost) -> None:
    load = start_load()
    load.wait_for_answers(20)
    answers = load.stop()
    cost(answers)
    assert_none_failed(answers)


@pytest.mark.parametrize("what", ["prefill", "decode", "router"])
def test_deleting_a_pod_under_load_fails_nothing(
    release: Release, start_load: StartLoad, cost: Cost, what: str
) -> None:
    assert_all_ready(release)
    load = start_load()
    load.wait_for_answers(10)
    victim = pods_of(release, what)[0]
    release.namespace.kubectl("delete", "pod", victim, "--wait=false")
    wait_for("its end", lambda: victim not in all_pods(release), 90)
    assert_all_ready(release)
    load.wait_for_answers(10)
    answers = load.stop()
    cost(answers)
    assert_none_failed(answers)


@pytest.mark.parametrize("what", ["prefill", "decode", "router"])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "frozen"])
def test_a_process_lost_under_load_fails_nothing(
    release: Release, start_load: StartLoad, cost: Cost, what: str, number: signal.Signals
) -> None:
    assert_all_ready(release)
    victim = pods_of(release, what)[0]
    processes = processes_of(release, victim)
    if not processes:
        pytest.skip("the nodes' processes are not processes of this machine")
    load = start_load()
    load.wait_for_answers(10)
    for process in processes:
        process.send_signal(number)
    time.sleep(5)  # what is lost is noticed, or is not; there is no condition to wait for
    load.wait_for_answers(10)
    if number == signal.SIGSTOP:
        for process in processes:
            if process.is_running():
                process.send_signal(signal.SIGCONT)
    assert_all_ready(release)
    load.wait_for_answers(10)
    answers = load.stop()
    cost(answers)
    assert_none_failed(answers)


def test_an_upgrade_rolls_all_pods_without_failing_anything(
    release: Release, start_load: StartLoad, cost: Cost, image: str
) -> None:
    assert_all_ready(release)
    before = set(all_pods(release))
    load = start_load()
    load.wait_for_answers(5)
    place = ("--namespace", release.namespace.name)
    values = Path(__file__).parent / "values.yaml"
    run(
        *("helm", "upgrade", release.name, str(CHART), f"--values={values}", *image_values(image)),
        *("--set=router.podAnnotations.rolled=1", "--set=poolDefaults.podAnnotations.rolled=1"),
        *("--wait", "--timeout=240s", *place),
        seconds=250,
    )
    wait_for("the end of all old pods", lambda: not before & set(all_pods(release)), 90)
    load.wait_for_answers(10)
    answers = load.stop()
    cost(answers)
    assert_none_failed(answers)


def test_what_is_uninstalled_leaves_nothing(image: str) -> None:
    kinds = (
        "deployments,replicasets,pods,services,endpointslices,configmaps,secrets,serviceaccounts,"
        "roles,rolebindings,poddisruptionbudgets,networkpolicies"
    )
    with new_namespace() as namespace:
        wait_for("the namespace's own objects", lambda: len(namespace.names(kinds)) == 2, 30)
        before = namespace.names(kinds)
        release = Release(name="brief", namespace=namespace, chart=str(CHART))
        laptop = CHART.parent / "values" / "laptop.yaml"
        release.install([f"--values={laptop}", *image_values(image)])
        release.test()
        release.uninstall()
        wait_for("nothing left", lambda: namespace.names(kinds) == before, 60)


def test_a_router_without_rights_says_which_it_lacks(image: str) -> None:
    with new_namespace() as namespace:
        release = Release(name="mute", namespace=namespace, chart=str(CHART))
        laptop = CHART.parent / "values" / "laptop.yaml"
        try:
            release.install([f"--values={laptop}", *image_values(image)])
            namespace.kubectl("delete", "rolebinding", f"{release.fullname}-router")
            namespace.kubectl("delete", "pod", "--selector", release.routers)
            told = "not allowed to list endpointslices (discovery.k8s.io)"
            wait_for(
                "the router's complaint",
                lambda: (
                    told in namespace.kubectl("logs", "--selector", release.routers, "--tail=-1")
                ),
                60,
            )
        finally:
            release.uninstall()


def pods_of(release: Release, what: str) -> list[str]:
    return release.namespace.ready_pods(release.routers if what == "router" else release.pool(what))


def all_pods(release: Release) -> list[str]:
    return [
        pod["metadata"]["name"] for pod in release.namespace.objects("pods", release.selector())
    ]


def processes_of(release: Release, pod: str) -> list[psutil.Process]:
    """A pod's own processes, where its node shares this machine's process table; the sandbox's is
    not among them."""
    found = release.namespace.kubectl("get", "pod", pod, "--output=jsonpath={.metadata.uid}")
    processes = []
    for process in psutil.process_iter(["cmdline"]):
        try:
            groups = Path(f"/proc/{process.pid}/cgroup").read_text(encoding="utf-8")
        except OSError:
            continue  # it has ended meanwhile, or this system has no such file
        is_own = found in groups or found.replace("-", "_") in groups
        if is_own and os.path.basename((process.info["cmdline"] or ["pause"])[0]) != "pause":
            processes.append(process)
    return processes

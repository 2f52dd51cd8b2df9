"""Pods, processes, nodes and the API server go away under load, and no request fails or hangs."""

import os
import subprocess
import time
from pathlib import Path

import psutil
import pytest
from harness.cluster_load import Cost, Load, StartLoad, assert_none_failed
from harness.kubectl import CHART, CommandFailed, Release, image_values, run, wait_for

VALUES = f"--values={Path(__file__).parent / 'values.yaml'}"

ROLES = ("prefill", "decode", "router")

API_SERVER_AWAY_SECONDS = 20.0


def finish(load: Load, cost: Cost, more: int = 10) -> None:
    """The load goes on for a while after the event, and then nobody has been let down."""
    load.wait_for_answers(more)
    answers = load.stop()
    cost(answers)
    assert_none_failed(answers)


def loaded(release: Release, start_load: StartLoad) -> Load:
    release.wait_until_ready()
    load = start_load()
    load.wait_for_answers(10)
    return load


@pytest.mark.parametrize("what", ROLES)
def test_a_deleted_pod(release: Release, start_load: StartLoad, cost: Cost, what: str) -> None:
    load = loaded(release, start_load)
    victim = release.busiest(what)
    release.namespace.kubectl("delete", "pod", victim, "--wait=false")
    wait_for("its end", lambda: victim not in release.all_pods(), 90)
    release.wait_until_ready()
    finish(load, cost)


@pytest.mark.parametrize("what", ROLES)
def test_a_killed_process(release: Release, start_load: StartLoad, cost: Cost, what: str) -> None:
    load = loaded(release, start_load)
    victim = release.busiest(what)
    for process in processes_of(release, victim):
        process.kill()
    wait_for("it to be missed", lambda: victim not in release.ready(what), 30)
    release.wait_until_ready()
    finish(load, cost)


@pytest.mark.parametrize("what", ROLES)
def test_a_frozen_process(release: Release, start_load: StartLoad, cost: Cost, what: str) -> None:
    load = loaded(release, start_load)
    victim = release.busiest(what)
    processes = processes_of(release, victim)
    for process in processes:
        process.suspend()
    try:
        wait_for("it to be missed", lambda: victim not in release.ready(what), 30)
        load.wait_for_answers(5)
    finally:
        for process in processes:
            if process.is_running():
                process.resume()
    release.wait_until_ready()
    finish(load, cost)


def test_a_drained_node(release: Release, start_load: StartLoad, cost: Cost) -> None:
    nodes = release.nodes()
    if len(nodes) < 2:
        pytest.skip("the cluster has one node only")
    load = loaded(release, start_load)
    node = next(node for node in nodes if node != load.node)
    try:
        drain = ("drain", node, "--ignore-daemonsets", "--delete-emptydir-data", "--timeout=120s")
        run("kubectl", *drain, f"--pod-selector={release.selector()}", seconds=150)
        load.wait_for_answers(5)
    finally:
        run("kubectl", "uncordon", node)
    release.wait_until_ready()
    finish(load, cost)


def test_a_node_cut_off_the_network_and_mended(
    release: Release, start_load: StartLoad, cost: Cost, cluster_program: str
) -> None:
    load = loaded(release, start_load)
    node = next(node for node in release.nodes() if node != load.node)
    run(cluster_program, "cut", node)
    try:
        load.wait_for_answers(10)
    finally:
        run(cluster_program, "mend", node)
    release.wait_until_ready()
    finish(load, cost)


def test_the_api_server_away(
    release: Release, start_load: StartLoad, cost: Cost, cluster_program: str
) -> None:
    load = loaded(release, start_load)
    run(cluster_program, "stop", "kube-apiserver")
    try:
        time.sleep(API_SERVER_AWAY_SECONDS)  # the event itself: there is nothing to wait for
    finally:
        run(cluster_program, "start", "kube-apiserver")
    wait_for("the API server", api_answers, 60)
    release.wait_until_ready()
    told = "endpointslices of namespace"
    for router in release.ready("router"):
        logs = ("logs", router, "--tail=50")
        wait_for("the watch's return", lambda: told in release.namespace.kubectl(*logs), 10)  # noqa: B023
    load.follow()  # kubectl's own stream of the log broke
    finish(load, cost)


def test_an_upgrade(release: Release, start_load: StartLoad, cost: Cost, image: str) -> None:
    load = loaded(release, start_load)
    before = set(release.all_pods())
    run(
        *("helm", "upgrade", release.name, str(CHART), VALUES, *image_values(image)),
        "--set-string=router.podAnnotations.rolled=1",
        "--set-string=poolDefaults.podAnnotations.rolled=1",
        *("--wait", "--timeout=240s", "--namespace", release.namespace.name),
        seconds=250,
    )
    wait_for("the end of all old pods", lambda: not before & set(release.all_pods()), 90)
    finish(load, cost)


def api_answers() -> bool:
    try:
        return run("kubectl", "get", "--raw", "/readyz", seconds=5) == "ok"
    except (CommandFailed, subprocess.TimeoutExpired):
        return False


def processes_of(release: Release, pod: str) -> list[psutil.Process]:
    """A pod's own processes; the sandbox's is not among them. Skips the test where nodes are other
    machines than this one."""
    uid = release.namespace.kubectl("get", "pod", pod, "--output=jsonpath={.metadata.uid}")
    processes = []
    for process in psutil.process_iter(["cmdline"]):
        try:
            groups = Path(f"/proc/{process.pid}/cgroup").read_text(encoding="utf-8")
        except OSError:
            continue  # it has ended meanwhile, or this system has no such file
        is_own = uid in groups or uid.replace("-", "_") in groups
        if is_own and os.path.basename((process.info["cmdline"] or ["pause"])[0]) != "pause":
            processes.append(process)
    if not processes:
        pytest.skip("the pods' processes are not processes of this machine")
    return processes

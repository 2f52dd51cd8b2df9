"""Processes and nodes go away under load, and no request fails or hangs."""

import os
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from cluster.cluster_events import UnderLoad
from cluster.kubectl import KINDS, Release, run


@pytest.mark.parametrize("what", KINDS)
def test_each_process_killed(release: Release, under_load: UnderLoad, what: str) -> None:
    with under_load():
        for victim in release.ready(what):
            for process in processes_of(release, victim):
                process.kill()
            release.wait_until_missed(what, victim)
            release.wait_until_ready()


@pytest.mark.parametrize("what", KINDS)
def test_each_process_frozen(release: Release, under_load: UnderLoad, what: str) -> None:
    with under_load() as load:
        for victim in release.ready(what):
            for _ in frozen(processes_of(release, victim)):
                load.wait_for_a_round()  # long before Kubernetes misses it
            release.wait_until_ready()


def test_a_node_drained(release: Release, under_load: UnderLoad) -> None:
    with under_load() as load:
        node = another_node(release, load.node)
        try:
            drain = ("drain", node, "--ignore-daemonsets", "--delete-emptydir-data")
            pods = f"--pod-selector={release.selector()}"
            run("kubectl", *drain, pods, "--timeout=120s", seconds=150)
            load.wait_for_a_round()
        finally:
            run("kubectl", "uncordon", node)
        release.wait_until_ready()


def test_a_node_cut_off_the_network_and_mended(
    release: Release, under_load: UnderLoad, cluster_program: str
) -> None:
    with under_load() as load:
        node = another_node(release, load.node)
        run(cluster_program, "cut", node)
        try:
            load.wait_for_a_round()
        finally:
            run(cluster_program, "mend", node)
        release.wait_until_ready()


def another_node(release: Release, than: str) -> str:
    """A node with pods of the release, beside the load's own."""
    others = [node for node in release.nodes() if node != than]
    if not others:
        pytest.skip("the release runs on one node only")
    return others[0]


def frozen(processes: list[psutil.Process]) -> Iterator[None]:
    """One round of a loop, in which they do nothing."""
    for process in processes:
        process.suspend()
    try:
        yield
    finally:
        for process in processes:
            if process.is_running():
                process.resume()


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

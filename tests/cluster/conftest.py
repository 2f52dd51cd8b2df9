"""A real cluster, the chart installed on it, and clients inside of it.

The cluster is whatever KUBECONFIG names, and LENGTHWISE_IMAGE is an image that its nodes have.
Where either is missing the tests skip themselves and say so; `make test-cluster` provides both.
"""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from harness.cluster_load import Answer, Load, StartLoad
from harness.kubectl import (
    CommandFailed,
    Namespace,
    Release,
    image_values,
    new_namespace,
    run,
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.cluster)
            item.add_marker(pytest.mark.slow)
            item.add_marker(pytest.mark.timeout(300))


COSTS: list[str] = []
"""What each event cost the requests around it: a row per event."""


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if COSTS:
        terminalreporter.section("what each event cost")
        head = f"{'event':<24}{'requests':>9}{'failed':>7}{'retried':>8}"
        terminalreporter.line(f"{head}{'p50 s':>8}{'max s':>8}{'gap s':>8}")
        for row in COSTS:
            terminalreporter.line(row)


@pytest.fixture
def cost(request: pytest.FixtureRequest) -> Callable[[list[Answer]], None]:
    """`cost(answers)` adds a row for the test at hand: total seconds of requests, and the longest
    silence within one."""

    def add(answers: list[Answer]) -> None:
        name = request.node.name.removeprefix("test_")[-24:]
        totals = sorted(answer.total for answer in answers)
        failed = sum(bool(answer.error) for answer in answers)
        retried = sum(answer.retries > 0 for answer in answers)
        numbers = (totals[len(totals) // 2], totals[-1], max(answer.gap for answer in answers))
        row = f"{name:<24}{len(answers):>9}{failed:>7}{retried:>8}"
        COSTS.append(row + "".join(f"{number:>8.2f}" for number in numbers))

    return add


@pytest.fixture(scope="session", params=["helm", "helm3"])
def helm(request: pytest.FixtureRequest) -> str:
    """Each version of Helm in turn."""
    if shutil.which(request.param) is None:
        pytest.skip(f"{request.param} is not on the PATH")
    return str(request.param)


@pytest.fixture(scope="session")
def image() -> str:
    """NAME:TAG, on every node of a cluster that answers. It is also what permits these tests to
    touch a cluster at all: a KUBECONFIG alone may name somebody's own."""
    name = os.environ.get("LENGTHWISE_IMAGE", "")
    if not os.environ.get("KUBECONFIG"):
        pytest.skip("KUBECONFIG names no cluster; run: make test-cluster")
    if ":" not in name:
        pytest.skip(
            f"LENGTHWISE_IMAGE: got {name!r}, expected NAME:TAG of an image that the cluster's"
            " nodes have; scripts/image builds it, docs/kubernetes.md tells how to load it"
        )
    for program in ("kubectl", "helm"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not on the PATH")
    try:
        run("kubectl", "get", "--raw", "/readyz", seconds=10)
    except (CommandFailed, subprocess.TimeoutExpired) as error:
        pytest.skip(f"the cluster of KUBECONFIG={os.environ['KUBECONFIG']} is silent: {error}")
    return name


@pytest.fixture(scope="session")
def cluster_program(image: str) -> str:
    """What made the cluster, and takes parts of it away."""
    program = os.environ.get("LENGTHWISE_CLUSTER", "")
    if not program:
        pytest.skip("LENGTHWISE_CLUSTER names no program that can cut nodes off")
    return program


@pytest.fixture(scope="session")
def namespace(image: str) -> Iterator[Namespace]:
    with new_namespace() as namespace:
        yield namespace


@pytest.fixture(scope="session")
def release(namespace: Namespace, image: str) -> Iterator[Release]:
    """Two routers, two prefill and two decode workers of the demo model."""
    release = Release(name="main", namespace=namespace, num_pods=2)
    values = Path(__file__).parent / "values.yaml"
    try:
        release.install([f"--values={values}", *image_values(image)])
        yield release
    finally:
        release.uninstall()


@pytest.fixture
def start_load(release: Release, image: str) -> Iterator[StartLoad]:
    """`start_load(streams, max_tokens)`: a pod that asks without end, answered at least once."""
    with ExitStack() as stack:

        def start(streams: int = 6, max_tokens: int = 64) -> Load:
            load = Load(release, image, streams=streams, max_tokens=max_tokens)
            stack.callback(load.remove)
            load.start()
            return load

        yield start

"""A real cluster, the chart installed on it, and clients inside of it.

The cluster is whatever KUBECONFIG names, and LENGTHWISE_IMAGE is an image that its nodes have.
Where either is missing the tests skip themselves and say so; `make test-cluster` provides both.

One load runs from the first answer to the end, so that all that happens, happens under load.
"""

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from cluster.cluster_events import TITLES, CostRow, CostSince, UnderLoad, row_of, write_csv
from cluster.cluster_load import Load, StartLoad, Traffic, assert_none_failed
from cluster.kubectl import CommandFailed, Namespace, Release, image_values, new_namespace, run
from cluster.prometheus_pod import PrometheusPod
from cluster.scaling import errors_of

FOLDER = Path(__file__).parent

ORDER = (
    "test_chart",
    "test_install",
    "test_autoscaling",
    "test_aside",
    "test_models",
    "test_deletions",
    "test_outage",
    "test_events",
    "test_upgrade",
    "test_api_server",
    "test_access",
    "test_uninstall",
)
"""All share one release: what changes it for good comes late."""

STEADY = Traffic(streams=4, max_tokens=48, pause_seconds=0.1)

RULES = sorted((FOLDER.parents[1] / "helm" / "lengthwise" / "rules").glob("*.yaml"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    ours = {path for path in {item.path for item in items} if FOLDER in path.parents}
    for item in items:
        if item.path in ours:
            item.add_marker(pytest.mark.cluster)
            item.add_marker(pytest.mark.slow)
            item.add_marker(pytest.mark.timeout(300))
    items.sort(key=lambda item: ORDER.index(item.path.stem) if item.path in ours else -1)


COSTS: list[CostRow] = []
"""What each event cost the requests around it."""

TOOK: dict[str, float] = {}


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if COSTS:
        terminalreporter.section("what each event cost")
        terminalreporter.line(TITLES)
        for row in COSTS:
            terminalreporter.line(row.line)
        for what, seconds in TOOK.items():
            terminalreporter.line(f"{what}: {seconds:.1f} s")
        if path := os.environ.get("LENGTHWISE_COSTS"):
            write_csv(Path(path), COSTS)


@pytest.fixture(scope="session", params=["helm", "helm3"])
def helm(request: pytest.FixtureRequest) -> str:
    """Each version of Helm in turn."""
    if shutil.which(request.param) is None:
        pytest.skip(f"{request.param} is not on the PATH")
    return str(request.param)


@pytest.fixture(scope="session")
def image() -> str:
    """NAME:TAG, on every node of a cluster that answers. It is also what permits these tests to
    touch a cluster at all: a KUBECONFIG alone may name a cluster in use."""
    name = os.environ.get("LENGTHWISE_IMAGE", "")
    if not os.environ.get("KUBECONFIG"):
        pytest.skip("KUBECONFIG names no cluster; run: make test-cluster")
    if ":" not in name:
        pytest.skip(
            f"LENGTHWISE_IMAGE: got {name!r}, expected NAME:TAG of an image that the cluster's"
            " nodes have; scripts/image builds it, docs/kubernetes.md says how to load it"
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
def next_image(image: str) -> str:
    """Another image of the same code, on every node too."""
    name = os.environ.get("LENGTHWISE_NEXT_IMAGE", "")
    if ":" not in name:
        pytest.skip("LENGTHWISE_NEXT_IMAGE names no second image of the cluster's nodes")
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
def maybe_prometheus(namespace: Namespace, image: str) -> PrometheusPod | None:
    name = os.environ.get("LENGTHWISE_PROMETHEUS_IMAGE", "")
    if ":" not in name:
        return None
    pod = PrometheusPod(namespace, name, image, RULES)
    pod.apply()
    return pod


@pytest.fixture(scope="session")
def prometheus(maybe_prometheus: PrometheusPod | None) -> PrometheusPod:
    """It scrapes the release; the autoscaler reads it."""
    if maybe_prometheus is None:
        pytest.skip("LENGTHWISE_PROMETHEUS_IMAGE names no image of Prometheus")
    return maybe_prometheus


@pytest.fixture(scope="session")
def values(image: str, maybe_prometheus: PrometheusPod | None) -> list[str]:
    """Of the release: two routers, two prefill and two decode workers of the demo model, and an
    autoscaler if there is a Prometheus for it."""
    values = [f"--values={FOLDER / 'values.yaml'}", *image_values(image)]
    if maybe_prometheus is not None:
        url = f"--set=autoscaler.prometheus.url={maybe_prometheus.url}"
        values += [f"--values={FOLDER / 'autoscaling.yaml'}", url]
    return values


@pytest.fixture(scope="session")
def release(
    namespace: Namespace, values: list[str], maybe_prometheus: PrometheusPod | None
) -> Iterator[Release]:
    release = Release(name="main", namespace=namespace)
    if maybe_prometheus is not None:
        maybe_prometheus.wait_until_ready()
    try:
        release.install(values)
        yield release
    finally:
        release.uninstall()


@pytest.fixture(scope="session")
def load(release: Release, image: str) -> Iterator[Load]:
    """The steady one."""
    load = Load(release, image, STEADY)
    try:
        load.start()
        yield load
    finally:
        load.remove()


@pytest.fixture
def start_load(release: Release, image: str) -> Iterator[StartLoad]:
    """`start_load(traffic)`: a pod that asks without end, answered at least once."""
    with ExitStack() as stack:

        def start(traffic: Traffic) -> Load:
            load = Load(release, image, traffic)
            stack.callback(load.remove)
            load.start()
            return load

        yield start


@pytest.fixture(scope="session")
def cost_since(load: Load) -> CostSince:
    """`cost_since(name, began)`: once every stream has been answered again, adds a row to the
    costs. Errors: AssertionError when a request failed or hung."""

    def add(name: str, began: float) -> None:
        ended = time.time()
        load.wait_for_a_round()
        answers = load.answers_since(began)
        COSTS.append(row_of(name, ended - began, answers))
        assert_none_failed(answers)

    return add


@pytest.fixture
def under_load(
    release: Release, load: Load, cost_since: CostSince, request: pytest.FixtureRequest
) -> UnderLoad:
    """`with under_load():` is a row of its own; it begins when all is well."""

    @contextmanager
    def under() -> Iterator[Load]:
        release.wait_until_ready()
        load.wait_for_a_round()
        began = time.time()
        yield load
        cost_since(request.node.name, began)

    return under


@pytest.fixture(scope="session")
def prometheus_stopped_at(release: Release, load: Load, prometheus: PrometheusPod) -> float:
    """It is stopped for the first test that asks; tests that need none go on meanwhile."""
    prometheus.stop()
    return time.time()


@pytest.fixture
def autoscaler_log(release: Release) -> Iterator[None]:
    """Shown where a test fails."""
    yield
    name = f"deployment/{release.fullname}-autoscaler"
    print(release.namespace.kubectl("logs", name, "--tail=30"))
    print(errors_of(release))


@pytest.fixture(scope="session")
def took() -> dict[str, float]:
    """Seconds that things took, by what they are."""
    return TOOK


@pytest.fixture
def wake_kubelets() -> Callable[[], None]:
    """A kubelet that lost the API server takes up to a minute to look for it again, and its pods
    are called NotReady meanwhile; a new one does it at once."""
    program = os.environ.get("LENGTHWISE_CLUSTER", "")

    def restart(node: str) -> None:
        kubelet = f"kubelet-{node.rpartition('-')[2]}"
        run(program, "stop", kubelet)
        run(program, "start", kubelet)

    def wake() -> None:
        nodes = run("kubectl", "get", "nodes", "--output=name").split()
        with ThreadPoolExecutor() as pool:
            list(pool.map(restart, nodes))

    return wake

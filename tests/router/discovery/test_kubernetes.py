"""Which workers EndpointSlices name, how soon, and what API servers may do without harm."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from harness.kubernetes_api import FakeApi, Server, api_server, endpoint, endpoint_slice
from harness.waiting import eventually

from lengthwise_router.config import DiscoveryConfig, KubernetesConfig
from lengthwise_router.discovery.endpoint_slices import EndpointSlices
from lengthwise_router.discovery.kubernetes import KubernetesDiscovery
from lengthwise_router.discovery.sources import discovery_of
from lengthwise_router.labels import DiscoveryFailure
from lengthwise_runtime.config import ConfigError

SOON = 1.0
"""What the chart promises between a change in Kubernetes and the router knowing it."""

LONG = 60.0
"""A period of relisting that no test reaches: what happens is the watch's doing."""


class Follower:
    """What a discovery proposes, as soon as it does."""

    def __init__(self, discovery: KubernetesDiscovery, failures: list[DiscoveryFailure]) -> None:
        self.seen: list[frozenset[str]] = []
        self.failures = failures
        self._task = asyncio.create_task(self._follow(discovery))

    @property
    def now(self) -> set[str] | None:
        return {address.partition(":")[0] for address in self.seen[-1]} if self.seen else None

    async def until(self, *hosts: str, seconds: float = SOON) -> None:
        await eventually(lambda: self.now == set(hosts), seconds)

    async def stop(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        assert self._task.cancelled(), "it ended on its own"

    async def _follow(self, discovery: KubernetesDiscovery) -> None:
        async for addresses in discovery.addresses():
            self.seen.append(addresses)


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with api_server() as server:
        yield server


@pytest.fixture
def api(server: Server) -> FakeApi:
    return server.api


@pytest.fixture
async def follow(server: Server) -> AsyncIterator[Callable[..., Follower]]:
    """`follow(relist_seconds)`: a discovery of the Services workers and more of namespace llm."""
    followers = []

    def start(relist_seconds: float = LONG) -> Follower:
        failures: list[DiscoveryFailure] = []
        discovery = KubernetesDiscovery(
            server.configuration,
            "llm",
            ("workers", "more"),
            on_failure=failures.append,
            relist_seconds=relist_seconds,
        )
        followers.append(Follower(discovery, failures))
        return followers[-1]

    yield start
    for follower in followers:
        await follower.stop()


Follow = Callable[..., Follower]


async def watching(api: FakeApi) -> None:
    await eventually(lambda: api.watches)


async def test_ready_endpoints_of_all_named_services_are_found(
    api: FakeApi, follow: Follow
) -> None:
    api.put(endpoint_slice("workers-1", endpoint("10.0.0.1"), endpoint("10.0.0.2")))
    api.put(endpoint_slice("more-1", endpoint("10.0.0.3"), service="more"))
    api.put(endpoint_slice("other-1", endpoint("10.0.0.4"), service="other"))
    follower = follow()
    await follower.until("10.0.0.1", "10.0.0.2", "10.0.0.3")
    assert "10.0.0.1:50051" in follower.seen[-1]


async def test_having_found_no_worker_is_reported_too(follow: Follow) -> None:
    await follow().until()


async def test_a_worker_is_known_soon_after_it_turned_ready(api: FakeApi, follow: Follow) -> None:
    api.put(endpoint_slice("workers-1", endpoint("10.0.0.1", ready=False)))
    follower = follow()
    await follower.until()
    await watching(api)
    api.put(endpoint_slice("workers-1", endpoint("10.0.0.1")))
    await follower.until("10.0.0.1")
    assert api.requests == ["list", "watch"]


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"ready": False}, id="not ready"),
        pytest.param({"ready": False, "serving": True, "terminating": True}, id="draining"),
        pytest.param({"ready": True, "terminating": True}, id="published while it leaves"),
    ],
)
async def test_a_worker_is_dropped_soon_after_it_is_not_to_be_used(
    api: FakeApi, follow: Follow, change: dict[str, bool]
) -> None:
    api.put(endpoint_slice("workers-1", endpoint("10.0.0.1"), endpoint("10.0.0.2")))
    follower = follow()
    await follower.until("10.0.0.1", "10.0.0.2")
    await watching(api)
    api.put(endpoint_slice("workers-1", endpoint("10.0.0.1", **change), endpoint("10.0.0.2")))
    await follower.until("10.0.0.2")


async def test_a_removed_slice_takes_its_workers_with_it(api: FakeApi, follow: Follow) -> None:
    api.put(endpoint_slice("workers-1", endpoint("10.0.0.1")))
    api.put(endpoint_slice("workers-2", endpoint("10.0.0.2")))
    follower = follow()
    await follower.until("10.0.0.1", "10.0.0.2")
    await watching(api)
    api.remove("workers-1")
    await follower.until("10.0.0.2")
    api.put(endpoint_slice("workers-2"))  # endpoints: null
    await follower.until()


async def test_an_event_that_comes_twice_changes_nothing(api: FakeApi, follow: Follow) -> None:
    follower = follow()
    await watching(api)
    api.put(endpoint_slice("workers-1", endpoint("10.0.0.1")))
    api.repeat_last()
    api.put(endpoint_slice("workers-2", endpoint("10.0.0.2")))
    await follower.until("10.0.0.1", "10.0.0.2")
    assert [len(addresses) for addresses in follower.seen] == [0, 1, 2]


@pytest.mark.slow
async def test_an_event_that_never_came_is_made_good_by_the_next_list(
    api: FakeApi, follow: Follow
) -> None:
    api.put(endpoint_slice("workers-1", endpoint("10.0.0.1")))
    follower = follow(relist_seconds=0.4)
    await follower.until("10.0.0.1")
    api.silent = True
    api.put(endpoint_slice("workers-1", endpoint("10.0.0.2")))
    await follower.until("10.0.0.2")


@pytest.mark.slow
async def test_a_dropped_watch_is_taken_up_again_and_loses_nothing(
    api: FakeApi, follow: Follow
) -> None:
    follower = follow()
    for number in range(3):
        await watching(api)
        api.drop_watches()
        api.put(endpoint_slice("workers-1", endpoint(f"10.0.0.{number}")))
        await follower.until(f"10.0.0.{number}", seconds=3 * SOON)


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["gone", "gone_in_stream"])
async def test_an_expired_version_leads_to_a_new_list(
    api: FakeApi, follow: Follow, caplog: pytest.LogCaptureFixture, fault: str
) -> None:
    setattr(api, fault, True)
    follower = follow()
    await eventually(lambda: api.lists == 2, SOON)
    setattr(api, fault, False)
    await eventually(lambda: api.watches)
    api.put(endpoint_slice("workers-1", endpoint("10.0.0.1")))
    await follower.until("10.0.0.1")
    assert not caplog.records, "an expired version is ordinary"
    assert not follower.failures


async def test_the_last_known_workers_stay_while_the_api_server_is_away(
    server: Server, api: FakeApi, follow: Follow, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    api.put(endpoint_slice("workers-1", endpoint("10.0.0.1")))
    follower = follow()
    await follower.until("10.0.0.1")
    await watching(api)
    await server.stop()
    await eventually(lambda: "cannot reach" in caplog.text)
    api.put(endpoint_slice("workers-1", endpoint("10.0.0.1"), endpoint("10.0.0.2")))
    assert follower.now == {"10.0.0.1"}
    await server.start()
    await follower.until("10.0.0.1", "10.0.0.2", seconds=15.0)
    await eventually(lambda: "watched again" in caplog.text)
    assert caplog.text.count("cannot reach") == 1, "once per trouble"
    assert set(follower.failures) == {"unreachable"}, "each time, unlike the log"


@pytest.mark.slow
async def test_a_broken_api_server_is_asked_less_and_less_often(
    api: FakeApi, follow: Follow
) -> None:
    api.gone = True
    began_at = time.monotonic()
    follow()
    await eventually(lambda: api.lists == 4)
    # Pauses of 0.2, 0.4 and 0.8 s, shortened by up to a half.
    assert time.monotonic() - began_at > 0.6


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["list", "watch"])
async def test_missing_rights_are_reported_with_verb_and_resource(
    api: FakeApi, follow: Follow, caplog: pytest.LogCaptureFixture, verb: str
) -> None:
    api.forbidden = {verb}
    api.put(endpoint_slice("workers-1", endpoint("10.0.0.1")))
    follower = follow()
    await eventually(lambda: api.requests.count(verb) == 3)
    (record,) = caplog.records
    assert record.levelname == "ERROR"
    assert (
        f"not allowed to {verb} endpointslices (discovery.k8s.io) in namespace 'llm'"
        in record.message
    )
    assert "system:serviceaccount:llm:router" in record.message
    assert "the verbs list and watch" in record.message
    assert set(follower.failures) == {"forbidden"}
    api.forbidden = set()
    await eventually(lambda: follower.now == {"10.0.0.1"} and api.watches)


async def test_an_answer_that_is_no_list_is_reported_and_survived(
    api: FakeApi, follow: Follow, caplog: pytest.LogCaptureFixture
) -> None:
    api.garbage = '{"items": [{}]}'
    api.put(endpoint_slice("workers-1", endpoint("10.0.0.1")))
    follower = follow()
    await eventually(lambda: "cannot read endpointslices" in caplog.text)
    assert set(follower.failures) == {"malformed"}
    api.garbage = ""
    await eventually(lambda: follower.now == {"10.0.0.1"})


def test_a_service_without_the_named_port_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    slices = EndpointSlices()
    slices.replace([endpoint_slice("workers-1", endpoint("10.0.0.1"), port_name="http")])
    assert slices.ready == frozenset()
    assert "workers-1 has no port named grpc" in caplog.text


def test_addresses_of_version_six_are_bracketed() -> None:
    slices = EndpointSlices()
    slices.replace([endpoint_slice("workers-1", endpoint("fd00::1"))])
    assert slices.ready == {"[fd00::1]:50051"}


@pytest.mark.parametrize(
    ("conditions", "ready"),
    [
        pytest.param({}, True, id="none"),
        pytest.param({"ready": None}, True, id="null"),
        pytest.param({"ready": False}, False, id="false"),
    ],
)
def test_an_unknown_readiness_counts_as_ready(conditions: dict[str, Any], ready: bool) -> None:
    item = endpoint_slice("workers-1", {"addresses": ["10.0.0.1"], "conditions": conditions})
    slices = EndpointSlices()
    slices.replace([item])
    assert bool(slices.ready) == ready


def test_outside_of_a_pod_it_is_the_operators_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    config = DiscoveryConfig(kubernetes=KubernetesConfig(services=("workers",)))
    with pytest.raises(ConfigError, match=r"discovery\.kubernetes: not in a pod"):
        discovery_of(config, lambda reason: None)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        pytest.param({}, "got endpoints=", id="nothing"),
        pytest.param({"services": ()}, "services: got none", id="no service"),
    ],
)
def test_contradicting_settings_are_refused(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DiscoveryConfig(
            endpoints=() if not config else ("x:1",),
            kubernetes=KubernetesConfig(**config) if config else None,
        )

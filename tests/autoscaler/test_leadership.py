"""One leads, be others frozen, cut off, gone or slow."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from harness.kubernetes_api import Server
from harness.kubernetes_objects import FakeObjects
from harness.prometheus import NAMESPACE
from harness.waiting import eventually
from prometheus_client import CollectorRegistry

from lengthwise_autoscaler.kubernetes import api_server, leadership
from lengthwise_autoscaler.kubernetes.api_server import ApiServer
from lengthwise_autoscaler.kubernetes.leadership import Leadership
from lengthwise_autoscaler.kubernetes.reporter import Reporter
from lengthwise_autoscaler.metrics import AutoscalerMetrics

LEASE = "demo-lengthwise-autoscaler"

LEASE_SECONDS = 1.5
RENEW_SECONDS = 1.0


class Candidate:
    """An autoscaler as far as leadership goes."""

    def __init__(self, api: ApiServer, name: str) -> None:
        registry = CollectorRegistry()
        metrics = AutoscalerMetrics(registry, [], is_dry_run=False)
        self.registry = registry
        self.reporter = Reporter(api, metrics, {}, writes_events=False)
        self.leadership = Leadership(api, self.reporter, lease=LEASE, identity=name)
        self.task: asyncio.Task[None] | None = None

    @property
    def leads(self) -> bool:
        return self.leadership.is_leader

    def errors(self, reason: str) -> float | None:
        return self.registry.get_sample_value("lengthwise_scaling_errors_total", {"reason": reason})

    def start(self) -> None:
        self.task = asyncio.create_task(self.leadership.run())

    async def stop(self) -> None:
        """Without giving up the Lease: a crash."""
        if self.task is not None:
            self.task.cancel()
            await asyncio.gather(self.task, return_exceptions=True)
            self.task = None


Compete = Callable[[str], Awaitable[Candidate]]


@pytest.fixture
async def compete(server: Server, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Compete]:
    """`await compete(name)`: one more candidate. Everything is ten times as fast as in earnest."""
    monkeypatch.setattr(leadership, "LEASE_SECONDS", LEASE_SECONDS)
    monkeypatch.setattr(leadership, "RENEW_SECONDS", RENEW_SECONDS)
    monkeypatch.setattr(leadership, "RETRY_SECONDS", 0.1)
    monkeypatch.setattr(api_server, "ANSWER_SECONDS", 0.6)
    candidates: list[Candidate] = []
    apis: list[ApiServer] = []

    async def join(name: str) -> Candidate:
        apis.append(ApiServer(server.configuration, NAMESPACE))
        candidates.append(Candidate(apis[-1], name))
        candidates[-1].start()
        return candidates[-1]

    yield join
    for candidate in candidates:
        await candidate.stop()
    for api in apis:
        await api.close()


@pytest.mark.slow
async def test_the_first_leads_and_goes_on_leading(compete: Compete, objects: FakeObjects) -> None:
    first = await compete("first")
    await eventually(lambda: first.leads)
    second = await compete("second")
    until = time.monotonic() + 2 * LEASE_SECONDS
    while time.monotonic() < until:
        assert first.leads
        assert not second.leads
        await asyncio.sleep(0.02)
    spec = objects.get("leases", LEASE)["spec"]
    assert spec["holderIdentity"] == first.leadership.identity
    assert spec["renewTime"] > spec["acquireTime"]
    assert spec["acquireTime"].endswith("Z")


async def test_a_lease_that_was_made_empty_is_taken(compete: Compete, objects: FakeObjects) -> None:
    objects.put("leases", {"metadata": {"name": LEASE, "labels": {"chart": "yes"}}})
    first = await compete("first")
    await eventually(lambda: first.leads)
    assert objects.get("leases", LEASE)["metadata"]["labels"] == {"chart": "yes"}
    assert "create leases" not in objects.requests


async def test_a_leader_that_ends_well_is_followed_at_once(
    compete: Compete, objects: FakeObjects, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = await compete("first")
    monkeypatch.setattr(leadership, "LEASE_SECONDS", 60.0)
    await eventually(lambda: first.leads)
    second = await compete("second")
    await eventually(lambda: objects.requests.count("get leases") > 5)
    await first.stop()
    await first.leadership.release()
    assert not first.leads
    await eventually(lambda: second.leads, 20.0)
    assert objects.get("leases", LEASE)["spec"]["leaseTransitions"] >= 1


@pytest.mark.slow
async def test_a_leader_that_crashes_is_followed_once_its_lease_has_expired(
    compete: Compete,
) -> None:
    first = await compete("first")
    await eventually(lambda: first.leads)
    second = await compete("second")
    await asyncio.sleep(0.3)  # it has seen the Lease
    await first.stop()
    began_at = time.monotonic()
    await eventually(lambda: second.leads)
    assert time.monotonic() - began_at > LEASE_SECONDS / 2
    assert not first.leads


@pytest.mark.slow
async def test_two_processes_of_one_name_do_not_both_lead(compete: Compete) -> None:
    first = await compete("same")
    await eventually(lambda: first.leads)
    second = await compete("same")
    await asyncio.sleep(LEASE_SECONDS)
    assert first.leads
    assert not second.leads


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["stopped", "silent", "broken", "forbidden"])
async def test_a_leader_that_cannot_renew_stops_leading_before_its_lease_can_be_taken(
    compete: Compete, server: Server, objects: FakeObjects, fault: str
) -> None:
    first = await compete("first")
    await eventually(lambda: first.leads)
    seen = objects.get("leases", LEASE)["spec"]["renewTime"]
    await eventually(lambda: objects.get("leases", LEASE)["spec"]["renewTime"] != seen)
    began_at = time.monotonic()
    if fault == "stopped":
        await server.stop()
    elif fault == "silent":
        objects.answers.clear()
    else:
        getattr(objects, fault).update({"get leases", "update leases"})
    await eventually(lambda: not first.leads)
    assert time.monotonic() - began_at < LEASE_SECONDS - 0.1
    reason = "forbidden" if fault == "forbidden" else "api_server_unreachable"
    await eventually(lambda: first.errors(reason))
    if fault == "stopped":
        await server.start()
    objects.answers.set()
    objects.broken.clear()
    objects.forbidden.clear()
    await eventually(lambda: first.leads)


@pytest.mark.slow
async def test_a_leader_that_was_frozen_knows_at_once_that_it_leads_no_more(
    compete: Compete,
) -> None:
    first = await compete("first")
    await eventually(lambda: first.leads)
    # The whole process stands still, its event loop too.
    time.sleep(RENEW_SECONDS + 0.05)  # noqa: ASYNC251
    assert not first.leads


async def test_of_two_that_take_a_free_lease_one_gets_it(
    compete: Compete, objects: FakeObjects, caplog: pytest.LogCaptureFixture
) -> None:
    """The other one writes between this one's look and its write."""
    caplog.set_level(logging.DEBUG, "lengthwise_autoscaler")
    lease = {"metadata": {"name": LEASE}, "spec": {"holderIdentity": ""}}
    objects.put("leases", lease)

    def be_faster(write: str) -> None:
        objects.before_write = None
        objects.put("leases", {**lease, "spec": {"holderIdentity": "the other"}})

    objects.before_write = be_faster
    candidate = await compete("candidate")
    await eventually(lambda: "another autoscaler was faster" in caplog.text)
    assert not candidate.leads
    assert not candidate.errors("api_server_unreachable")
    assert objects.get("leases", LEASE)["spec"]["holderIdentity"] == "the other"


@pytest.mark.slow
async def test_of_many_that_come_at_once_one_leads(compete: Compete) -> None:
    candidates = [await compete(f"candidate-{number}") for number in range(5)]
    await eventually(lambda: any(candidate.leads for candidate in candidates))
    until = time.monotonic() + 1.0
    while time.monotonic() < until:
        assert sum(candidate.leads for candidate in candidates) <= 1
        await asyncio.sleep(0.01)
    assert not any(candidate.errors("api_server_unreachable") for candidate in candidates)

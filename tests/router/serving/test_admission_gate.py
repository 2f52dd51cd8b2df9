"""However requests come and go: places are neither lost nor taken twice."""

import asyncio
import random

import pytest
from prometheus_client import CollectorRegistry
from router.generations import make_generation

from lengthwise_policy.admission.admission import Admission, AdmissionPolicy
from lengthwise_policy.objectives import Objectives
from lengthwise_router.metric_families import MetricFamilies
from lengthwise_router.metrics import RouterMetrics
from lengthwise_router.serving.admission_gate import AdmissionGate
from lengthwise_router.serving.generation import Generation
from lengthwise_router.workers.wakeup import Wakeups
from lengthwise_wire.errors import Overloaded

MAX_IN_FLIGHT, MAX_QUEUED = 3, 10


class Door:
    """An admission gate, and requests that come to it."""

    def __init__(self) -> None:
        self.admission = Admission(
            AdmissionPolicy(max_requests_in_flight=MAX_IN_FLIGHT, max_queued=MAX_QUEUED)
        )
        metrics = RouterMetrics(
            MetricFamilies(CollectorRegistry()),
            model="stub",
            placement_rules=("predicted ttft",),
            objectives=Objectives(ttft_short_seconds=1.0, ttft_long_seconds=1.0),
            num_workers=lambda role, condition: 0,
            num_waiting=lambda: self.admission.num_waiting,
        )
        self.gate = AdmissionGate(
            admission=self.admission,
            metrics=metrics,
            objectives=Objectives(ttft_short_seconds=1.0, ttft_long_seconds=1.0),
            preview=None,
        )
        self._wakeups = Wakeups()

    def generation(self, name: str, *, priority: int = 0, tenant: str = "") -> Generation:
        return make_generation(name, priority=priority, tenant=tenant, wakeups=self._wakeups)

    @property
    def is_empty(self) -> bool:
        return not (self.admission.in_flight or self.admission.num_waiting)


async def test_a_request_cancelled_in_the_moment_it_is_let_in_gives_its_place_on() -> None:
    door = Door()
    tickets = [await door.gate.enter(door.generation(f"r{i}")) for i in range(MAX_IN_FLIGHT)]
    first, second = (
        asyncio.create_task(door.gate.enter(door.generation(name))) for name in ("first", "second")
    )
    await asyncio.sleep(0)
    assert door.admission.num_waiting == 2
    door.gate.leave(tickets.pop())  # lets the first one in, which does not know it yet
    first.cancel()
    tickets.append(await second)
    assert first.cancelled()
    for ticket in tickets:
        door.gate.leave(ticket)
    assert door.is_empty


async def test_a_request_cancelled_in_the_moment_it_is_displaced_is_gone() -> None:
    door = Door()
    tickets = [await door.gate.enter(door.generation(f"r{i}")) for i in range(MAX_IN_FLIGHT)]
    waiting = [
        asyncio.create_task(door.gate.enter(door.generation(f"w{i}"))) for i in range(MAX_QUEUED)
    ]
    await asyncio.sleep(0)
    urgent = asyncio.create_task(door.gate.enter(door.generation("urgent", priority=1)))
    await asyncio.sleep(0)
    waiting[-1].cancel()  # the last one lost its place
    await asyncio.sleep(0)
    assert door.admission.num_waiting == MAX_QUEUED
    door.gate.leave(tickets.pop())
    tickets.append(await urgent)
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    for ticket in tickets:
        door.gate.leave(ticket)
    assert door.is_empty


@pytest.mark.parametrize("seed", range(5))
async def test_no_place_is_lost_whatever_requests_do(seed: int) -> None:
    door, draw = Door(), random.Random(seed)
    outcomes = {"served": 0, "refused": 0, "cancelled": 0}

    async def live(name: str) -> None:
        generation = door.generation(
            name, priority=draw.randint(-1, 1), tenant=draw.choice(("a", "b", "c"))
        )
        for _ in range(draw.randint(0, 20)):
            await asyncio.sleep(0)
        try:
            ticket = await door.gate.enter(generation)
        except Overloaded:
            outcomes["refused"] += 1
            return
        try:
            assert door.admission.in_flight <= MAX_IN_FLIGHT
            for _ in range(draw.randint(1, 5)):
                await asyncio.sleep(0)
                door.gate.generated(ticket, 1)
            outcomes["served"] += 1
        finally:
            door.gate.leave(ticket)

    tasks = [asyncio.create_task(live(f"r{i}")) for i in range(200)]
    while not all(task.done() for task in tasks):
        draw.choice(tasks).cancel()
        await asyncio.sleep(0)
    results = await asyncio.gather(*tasks, return_exceptions=True)
    outcomes["cancelled"] = sum(isinstance(each, asyncio.CancelledError) for each in results)
    assert sum(outcomes.values()) == len(tasks), [each for each in results if each]
    assert all(outcomes.values()), outcomes
    assert door.is_empty

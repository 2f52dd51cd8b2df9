"""A soak: load on a fleet while a schedule of faults is played, and what is held afterwards."""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress

from harness.samples import samples_of
from harness.waiting import eventually
from harness.workers import status_of
from soak.callers import (
    REQUEST_SECONDS,
    Answering,
    Callers,
    Outcome,
    Route,
    through_sdk,
    without_sdk,
)
from soak.fleet import Fleet
from soak.injection import Injection
from soak.leaks import Counts
from soak.mix import Mix
from soak.report import Report
from soak.schedule import Fault
from soak.timeline import Timeline

import lengthwise
from lengthwise_checkpoint.toy import ToySpec
from lengthwise_local import Process
from lengthwise_runtime.channel import open_channel
from lengthwise_wire.v1 import inference_pb2_grpc

SAMPLE_SECONDS = 2.5
BACK_SECONDS = 60.0
"""After the last fault every process is ready again."""
FREE_SECONDS = 20.0
"""After the last request nothing is held any more."""
CLIENTS = 4


async def soak(
    report: Report,
    fleet: Fleet,
    spec: ToySpec,
    schedule: Sequence[Fault],
    *,
    per_second: float,
    tell: Callable[[str], None],
) -> None:
    """Fills the report, which holds what was found so far at any time. Returns when all requests
    have ended and the fleet is whole again. `tell` is called with what happens, as it does."""
    counts = Counts()

    def happened(fault: Fault) -> None:
        report.faults[fault.kind] += 1
        tell(str(fault))

    def ended(outcome: Outcome) -> None:
        if trouble := report.ended(outcome):
            tell(trouble)

    async def count() -> None:
        while True:
            await asyncio.to_thread(counts.take, fleet.steady)
            report.loads.append(os.getloadavg()[0])
            await asyncio.sleep(SAMPLE_SECONDS)

    async with ways(fleet) as each, asyncio.TaskGroup() as group:
        timelines: dict[Route, Timeline] = {"sdk": fleet.sdk, "raw": fleet.raw}
        callers = Callers(Mix(report.seed, spec), each, timelines, per_second, report.seed, ended)
        background = [group.create_task(fleet.watch()), group.create_task(count())]
        load = group.create_task(callers.run())
        try:
            await Injection(fleet, happened).play(schedule)
            await asyncio.sleep(report.began_at + report.seconds - time.monotonic())
            report.held += await not_back(fleet)
        finally:
            callers.stop.set()
        await load
        report.held += await held(fleet)
        report.ends, report.growths = fleet.ends, counts.growths()
        for route, timeline in timelines.items():
            report.out_seconds[route] = timeline.out_seconds(report.began_at, time.monotonic())
        for task in background:
            task.cancel()


async def not_back(fleet: Fleet) -> list[str]:
    """The processes that are not ready, though no fault lasts any more."""
    try:
        await eventually(lambda: fleet.live() == fleet.processes.keys(), BACK_SECONDS)
    except AssertionError:
        return [f"{name} is not back" for name in sorted(fleet.processes.keys() - fleet.live())]
    return []


async def held(fleet: Fleet) -> list[str]:
    """What is not given back, though no request is left."""
    found: list[str] = []

    async def nothing() -> bool:
        found[:] = [
            *[text for worker in fleet.workers if (text := await held_by(worker))],
            *[
                text
                for router in fleet.routers
                if (text := await asyncio.to_thread(in_flight, router))
            ],
        ]
        return not found

    with suppress(AssertionError):
        await eventually(nothing, FREE_SECONDS)
    return found


async def held_by(worker: Process) -> str:
    status = await status_of(worker.address)
    blocks = status.blocks_total - status.blocks_free
    queued = sum(queue.requests for queue in status.queues)
    if not (blocks or queued or status.running_requests):
        return ""
    return (
        f"{worker.name} holds {blocks} blocks, runs {status.running_requests} requests and has"
        f" {queued} in its queues"
    )


def in_flight(router: Process) -> str:
    samples = samples_of(router.metrics_address).items()
    count = sum(value for (name, _), value in samples if name == "lengthwise_requests_in_flight")
    return f"{router.name} has {count:g} requests in flight" if count else ""


@asynccontextmanager
async def ways(fleet: Fleet) -> AsyncIterator[dict[Route, Sequence[Answering]]]:
    """Several clients of each kind: those of the SDK begin with different routers."""
    endpoints = [fleet.processes[name].address for name in fleet.roster.routers]
    raw_endpoint = fleet.processes[fleet.roster.raw_router].address
    timeout = lengthwise.Timeout(total=REQUEST_SECONDS)
    async with AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(
                lengthwise.AsyncClient(endpoints[:: 1 if n % 2 else -1], timeout=timeout)
            )
            for n in range(CLIENTS)
        ]
        channels = [
            await stack.enter_async_context(open_channel(raw_endpoint, None))
            for _ in range(CLIENTS)
        ]
        yield {
            "sdk": [through_sdk(client) for client in clients],
            "raw": [without_sdk(inference_pb2_grpc.InferenceStub(channel)) for channel in channels],
        }

"""Under load, a process of each kind is killed and frozen: no request fails, none hangs, and every
token is what it would have been."""

import asyncio
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from harness.clusters import Load, all_finished_more, closed_loop, nothing_is_held
from harness.waiting import eventually

import lengthwise
from lengthwise_checkpoint.toy import ToySpec
from lengthwise_engine.toy.checkpoint import write_toy_checkpoint
from lengthwise_local import LocalCluster, Process

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

HUNG_SECONDS = 10.0
CLIENTS = 8

VICTIMS = {
    "prefill": lambda cluster: cluster.prefill[0],
    "decode": lambda cluster: cluster.decode[1],
    "router": lambda cluster: cluster.routers[0],
}


async def lose(
    cluster: LocalCluster, toy_spec: ToySpec, process: Process, signum: signal.Signals
) -> None:
    load, stop = Load(), asyncio.Event()
    async with lengthwise.AsyncClient(cluster.endpoints) as client:
        traffic = asyncio.create_task(
            closed_loop(client, toy_spec, load, stop, clients=CLIENTS, seed=signum)
        )
        try:
            await all_finished_more(load, 2, clients=CLIENTS)
            process.kill(signum)
            await all_finished_more(load, 5, clients=CLIENTS)
        finally:
            stop.set()
            if signum == signal.SIGSTOP:
                process.kill(signal.SIGCONT)
            else:
                await asyncio.to_thread(process.restart)
            await traffic
    assert load.slowest_seconds < HUNG_SECONDS
    await eventually(lambda: nothing_is_held(cluster), 15)


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "frozen"])
@pytest.mark.parametrize("victim", VICTIMS.values(), ids=VICTIMS.keys())
async def test_no_request_fails_or_hangs_when_a_process_is(
    cluster: LocalCluster,
    toy_spec: ToySpec,
    victim: Callable[[LocalCluster], Process],
    signum: signal.Signals,
) -> None:
    await lose(cluster, toy_spec, victim(cluster), signum)


@pytest.fixture
def ahead(tmp_path: Path) -> Iterator[LocalCluster]:
    """Decode workers that launch steps ahead, as on GPUs, with memory for a few requests."""
    model = write_toy_checkpoint(
        tmp_path / "toy", step_seconds=0.005, prefill_seconds_per_token=0.0001, asynchronous=True
    )
    worker = {"num_blocks": 256}
    with LocalCluster(
        model=model, prefill=1, decode=2, configs={"prefill": worker, "decode": worker}
    ) as cluster:
        yield cluster


async def test_no_request_fails_or_hangs_when_a_worker_is_killed_that_had_launched_steps(
    ahead: LocalCluster, toy_spec: ToySpec
) -> None:
    await lose(ahead, toy_spec, ahead.decode[1], signal.SIGKILL)

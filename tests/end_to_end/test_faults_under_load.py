"""Under load, a process of each kind is killed and frozen: no request fails, none hangs, and every
token is what it would have been."""

import asyncio
import signal
from collections.abc import Callable

import pytest
from harness.clusters import Load, all_finished_more, closed_loop, nothing_is_held
from harness.workers import eventually

import lengthwise
from lengthwise.local import LocalCluster, Process
from lengthwise_engine.toy.spec import ToySpec

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

HUNG_SECONDS = 10.0
CLIENTS = 8

VICTIMS = {
    "prefill": lambda cluster: cluster.prefill[0],
    "decode": lambda cluster: cluster.decode[1],
    "router": lambda cluster: cluster.routers[0],
}


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "frozen"])
@pytest.mark.parametrize("victim", VICTIMS.values(), ids=VICTIMS.keys())
async def test_no_request_fails_or_hangs_when_a_process_is(
    cluster: LocalCluster,
    toy_spec: ToySpec,
    victim: Callable[[LocalCluster], Process],
    signum: signal.Signals,
) -> None:
    process, load, stop = victim(cluster), Load(), asyncio.Event()
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

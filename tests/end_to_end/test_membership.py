"""Workers join and leave while requests run."""

import asyncio

import pytest
from harness.clusters import Load, all_finished_more, closed_loop, nothing_is_held
from harness.waiting import eventually

import lengthwise
from lengthwise_checkpoint.toy import ToySpec
from lengthwise_local import LocalCluster

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

CLIENTS = 6


async def test_requests_survive_planned_leaves_of_both_roles(
    cluster: LocalCluster, toy_spec: ToySpec
) -> None:
    load, stop = Load(), asyncio.Event()
    async with lengthwise.AsyncClient(cluster.endpoints) as client:
        traffic = asyncio.create_task(
            closed_loop(client, toy_spec, load, stop, clients=CLIENTS, seed=3)
        )
        for process in (cluster.prefill[0], cluster.decode[0]):
            await all_finished_more(load, 2, clients=CLIENTS)
            process.drain()
            assert await asyncio.to_thread(process.wait, 20) == 0
            await asyncio.to_thread(process.restart)
        await all_finished_more(load, 2, clients=CLIENTS)
        stop.set()
        await traffic
    await eventually(lambda: nothing_is_held(cluster), 5)


async def test_requests_wait_while_no_decode_worker_is_there(cluster: LocalCluster) -> None:
    """All decode workers are away for a moment: requests wait, none fails."""
    async with lengthwise.AsyncClient(cluster.endpoints) as client:
        for process in cluster.decode:
            process.kill()
        waiting = asyncio.create_task(
            client.generate([1, 2, 3], max_tokens=5, temperature=0, ignore_eos=True)
        )
        for process in cluster.decode:
            await asyncio.to_thread(process.restart)
        assert len((await waiting).token_ids) == 5

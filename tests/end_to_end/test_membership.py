"""Workers join and leave while requests run."""

import asyncio
from pathlib import Path

import pytest
from harness.clusters import Load, all_finished_more, closed_loop, nothing_is_held
from harness.workers import eventually

import lengthwise
from lengthwise_checkpoint.toy import ToySpec
from lengthwise_local import LocalCluster

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

CLIENTS = 6


@pytest.mark.parametrize(("prefill", "decode"), [(1, 2), (2, 1)])
async def test_any_ratio_serves_and_survives_planned_leaves(
    toy_folder: Path, toy_spec: ToySpec, prefill: int, decode: int
) -> None:
    worker = {"num_blocks": 2048}
    with LocalCluster(
        model=toy_folder,
        prefill=prefill,
        decode=decode,
        configs={"prefill": worker, "decode": worker},
    ) as cluster:
        load, stop = Load(), asyncio.Event()
        async with lengthwise.AsyncClient(cluster.endpoints) as client:
            traffic = asyncio.create_task(
                closed_loop(client, toy_spec, load, stop, clients=CLIENTS, seed=3)
            )
            for process in cluster.prefill if prefill > 1 else cluster.decode:
                await all_finished_more(load, 3, clients=CLIENTS)
                process.drain()
                assert await asyncio.to_thread(process.wait, 20) == 0
                await asyncio.to_thread(process.restart)
            await all_finished_more(load, 3, clients=CLIENTS)
            stop.set()
            await traffic
        await eventually(lambda: nothing_is_held(cluster), 5)


async def test_requests_wait_while_no_decode_worker_is_there(toy_folder: Path) -> None:
    """All decode workers are away for a moment: requests wait, none fails."""
    with LocalCluster(model=toy_folder) as cluster:
        async with lengthwise.AsyncClient(cluster.endpoints) as client:
            cluster.decode[0].kill()
            waiting = asyncio.create_task(
                client.generate([1, 2, 3], max_tokens=5, temperature=0, ignore_eos=True)
            )
            await asyncio.to_thread(cluster.decode[0].restart)
            assert len((await waiting).token_ids) == 5

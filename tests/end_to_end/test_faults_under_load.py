"""Decode workers that launch steps ahead, as on GPUs, have more to lose when they are killed."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness.clusters import Load, all_finished_more, closed_loop, nothing_is_held
from harness.waiting import eventually

import lengthwise
from lengthwise_checkpoint.toy import ToySpec
from lengthwise_engine.toy.checkpoint import write_toy_checkpoint
from lengthwise_local import LocalCluster

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

HUNG_SECONDS = 30.0
"""As in test_soak.py: three times what `make soak` permits, of machines that do much besides."""

CLIENTS = 8


@pytest.fixture
def ahead(tmp_path: Path) -> Iterator[LocalCluster]:
    """With memory for a few requests."""
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
    load, stop = Load(), asyncio.Event()
    async with lengthwise.AsyncClient(ahead.endpoints) as client:
        traffic = asyncio.create_task(
            closed_loop(client, toy_spec, load, stop, clients=CLIENTS, seed=9)
        )
        try:
            await all_finished_more(load, 2, clients=CLIENTS)
            ahead.decode[1].kill()
            await all_finished_more(load, 5, clients=CLIENTS)
        finally:
            stop.set()
            await asyncio.to_thread(ahead.decode[1].restart)
            await traffic
    assert load.slowest_seconds < HUNG_SECONDS
    await eventually(lambda: nothing_is_held(ahead), 15)

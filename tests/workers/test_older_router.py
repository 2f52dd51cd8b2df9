"""Newer workers below a router of an older version, which names neither itself nor an interval and
asks for no refusals."""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
from harness.workers import PlainRouter, oracle, prompt_of
from wire.versions import older

from lengthwise_checkpoint.toy import ToySpec
from lengthwise_local import LocalCluster
from lengthwise_runtime.status import HEARTBEAT_SECONDS
from lengthwise_wire.v1 import decode_pb2, prefill_pb2, worker_pb2

pytestmark = pytest.mark.slow

WATCH = ("router_id", "interval_seconds", "routers", "transfer_down")


class _OldRouter(PlainRouter):
    """Writes and reads its messages by the older definitions."""

    def __init__(self, prefill: str, decode: str) -> None:
        super().__init__(prefill, decode)
        later = ("most_tokens_ahead", "tokens_ahead")
        prefill_path, decode_path = "/lengthwise.v1.PrefillWorker/", "/lengthwise.v1.DecodeWorker/"
        self.prefill_stub = SimpleNamespace(  # type: ignore[assignment]
            Prefill=self._prefill_channel.unary_unary(
                f"{prefill_path}Prefill",
                lambda message: _as(older(prefill_pb2.PrefillRequest, *later), message),
                older(prefill_pb2.PrefillResponse, *later).FromString,
            )
        )
        tokens, release = self.decode_stub.Tokens, self.decode_stub.Release
        later = ("most_requests", "requests")
        self.decode_stub = SimpleNamespace(  # type: ignore[assignment]
            Tokens=tokens,
            Release=release,
            Reserve=self._decode_channel.unary_unary(
                f"{decode_path}Reserve",
                lambda message: _as(older(decode_pb2.ReserveRequest, *later), message),
                older(decode_pb2.ReserveResponse, *later).FromString,
            ),
        )

    async def statuses(self) -> AsyncGenerator[Any]:
        """Of the decode worker."""
        request = older(worker_pb2.WatchRequest, *WATCH)
        watch = self._decode_channel.unary_stream(
            "/lengthwise.v1.Worker/Watch",
            request.SerializeToString,
            older(worker_pb2.WorkerStatus, *WATCH).FromString,
        )
        async for status in watch(request(), timeout=20):
            yield status


def _as(kind: Any, message: Any) -> bytes:
    written: bytes = kind.FromString(message.SerializeToString()).SerializeToString()
    return written


@pytest.fixture
async def old_router(cluster: LocalCluster) -> AsyncIterator[_OldRouter]:
    router = _OldRouter(cluster.prefill[0].address, cluster.decode[0].address)
    await router.open()
    yield router
    await router.close()


@pytest.mark.parametrize("local", [False, True])
async def test_prompts_are_queued_and_computed_beside_any_number(
    old_router: _OldRouter, toy_spec: ToySpec, local: bool
) -> None:
    prompts = [prompt_of(300, seed=seed) for seed in range(6)]
    outputs = await asyncio.gather(
        *(old_router.generate(prompt, 10, local=local) for prompt in prompts)
    )
    assert outputs == [oracle(prompt, 10, toy_spec) for prompt in prompts]
    assert len(old_router.local_prefills) == (len(prompts) if local else 0)


async def test_statuses_come_on_change_and_name_every_block_once(old_router: _OldRouter) -> None:
    running = asyncio.create_task(old_router.generate(prompt_of(100, seed=30), 200, local=True))
    times, held = list[float](), set[int]()
    async with aclosing(old_router.statuses()) as statuses:
        async for status in statuses:
            assert status.worker_id
            events = status.block_events
            assert events.reset == (not times)
            times.append(time.monotonic())
            assert held.isdisjoint(events.added)
            held = held.union(events.added).difference(events.removed)
            if len(times) == 9:
                break
    gaps = [later - earlier for earlier, later in pairwise(times)]
    assert min(gaps) < HEARTBEAT_SECONDS / 2, "heartbeats alone"
    await running
    assert held

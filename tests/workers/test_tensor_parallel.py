"""Workers whose models several ranks compute, as many as suits each role: KV heads are regrouped on
the way between them, and one lost rank ends its worker."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from harness.workers import running
from workers.worker_pair import greedy_tokens, worker_pair

import lengthwise
from lengthwise_local import LocalCluster

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

MAX_TOKENS = 8
PROMPTS = [[(7 * i + 13 * n + i * i) % 254 + 2 for i in range(n)] for n in (1, 17, 130, 300)]
SOFTWARE_ERROR = 70


def _ranks(worker: psutil.Process) -> list[psutil.Process]:
    return running("lengthwise_engine.tensor_parallel.rank_main", worker.pid)


async def test_prefill_and_decode_may_have_different_numbers_of_ranks(
    make_checkpoint: Callable[..., Path],
) -> None:
    """There are two KV heads: two ranks have one each, of four ranks two have the same one."""
    checkpoint = make_checkpoint("qwen3")
    expected = await asyncio.to_thread(greedy_tokens, checkpoint, PROMPTS, MAX_TOKENS)
    async with worker_pair(checkpoint, prefill_ranks=2, decode_ranks=4) as router:
        assert len(_ranks(psutil.Process())) == (2 - 1) + (4 - 1)
        together = await asyncio.gather(*(router.generate(p, MAX_TOKENS) for p in PROMPTS))
        assert together == expected
        # The decode worker computes the ends of what it received.
        again = await asyncio.gather(*(router.generate(p, MAX_TOKENS, local=True) for p in PROMPTS))
        assert again == expected
        assert max(router.cached.values()) >= 288
    assert not _ranks(psutil.Process())


async def test_a_worker_that_loses_a_rank_ends_loudly_and_comes_back(
    make_checkpoint: Callable[..., Path],
) -> None:
    checkpoint, num_tokens = make_checkpoint("qwen3"), 60
    (expected,) = await asyncio.to_thread(greedy_tokens, checkpoint, PROMPTS[2:3], num_tokens)
    worker = {"num_blocks": 256}
    cluster = LocalCluster(
        model=checkpoint,
        device="cpu",
        configs={"prefill": worker, "decode": {**worker, "tensor_parallel_size": 2}},
    )
    with cluster:
        decode = cluster.decode[0]
        tokens: list[int] = []
        async with lengthwise.AsyncClient(cluster.endpoint) as client:
            stream = client.stream(
                PROMPTS[2], max_tokens=num_tokens, temperature=0, ignore_eos=True
            )
            async for chunk in stream:
                if not tokens:
                    (rank,) = _ranks(psutil.Process(decode.pid))
                    rank.kill()
                    assert await asyncio.to_thread(decode.wait, 10.0) == SOFTWARE_ERROR
                    await asyncio.to_thread(decode.restart)
                tokens += chunk.token_ids
    assert tokens == expected

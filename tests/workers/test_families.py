"""Real model families through both workers: greedy tokens equal those of transformers, whichever
worker computes the prompt, and whatever happens on the way.

KV heads in groups, one alone, of every size, and layers with and without windows cross the wire.
Other families and variants differ in the engine alone, whose tests compare them all.
"""

import asyncio
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from workers.worker_pair import greedy_tokens, worker_pair

from lengthwise_policy.decode.policy import DecodePolicy, PastFuturePolicy

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

PROMPT_LENGTHS = (1, 2, 15, 16, 17, 63, 130, 257, 511, 600)
MAX_TOKENS = 12


def _prompts() -> list[list[int]]:
    rng = random.Random(5)
    return [[rng.randrange(2, 256) for _ in range(length)] for length in PROMPT_LENGTHS]


@pytest.mark.parametrize(
    "variant",
    ["llama-mqa-head-dim", "qwen2-some-windows", "qwen3-biases-layer-types"],
)
async def test_every_family_speaks_as_in_transformers(
    make_checkpoint: Callable[..., Path], variant: str
) -> None:
    checkpoint, prompts = make_checkpoint(variant), _prompts()
    expected = await asyncio.to_thread(greedy_tokens, checkpoint, prompts, MAX_TOKENS)
    assert len({tuple(tokens) for tokens in expected}) > len(prompts) // 2, "a degenerate model"
    async with worker_pair(checkpoint) as router:
        together = await asyncio.gather(*(router.generate(p, MAX_TOKENS) for p in prompts))
        assert together == expected
        # Now their prefixes are cached; the decode worker computes the rest itself.
        again = await asyncio.gather(*(router.generate(p, MAX_TOKENS, local=True) for p in prompts))
    assert again == expected
    assert max(router.cached.values()) >= 592


async def test_preempted_requests_of_a_real_model_say_what_they_would_have_said(
    make_checkpoint: Callable[..., Path],
) -> None:
    """To their ends they need 32 blocks; there are 20."""
    checkpoint = make_checkpoint("llama")
    rng = random.Random(6)
    prompts = [[rng.randrange(2, 256) for _ in range(40)] for _ in range(4)]
    expected = await asyncio.to_thread(greedy_tokens, checkpoint, prompts, 80)
    policy = DecodePolicy(past_future=PastFuturePolicy(window=32, reserve=0.0))
    async with worker_pair(checkpoint, decode_blocks=20, decode_policy=policy) as router:
        # Past outputs of 20 tokens: more requests are expected to fit than do.
        await asyncio.gather(*(router.generate([1, 2, 3], 20, local=True) for _ in range(32)))
        together = await asyncio.gather(
            *(router.generate(p, 80, local=i > 0) for i, p in enumerate(prompts))
        )
        assert together == expected
        assert router.preempted

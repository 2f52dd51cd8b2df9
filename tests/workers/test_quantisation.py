"""Workers that round projections say together what one engine says alone."""

import asyncio
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from workers.worker_pair import worker_pair

from lengthwise_engine.loaded_model import load_runner
from lengthwise_engine.models.decoder_loader import Quantization
from lengthwise_engine.runner.base import SequenceChunk
from lengthwise_engine.runner.sampler import SamplingParameters, SamplingState

pytestmark = [pytest.mark.slow, pytest.mark.timeout(60)]

MAX_TOKENS = 10


def _prompts() -> list[list[int]]:
    rng = random.Random(5)
    return [[rng.randrange(2, 256) for _ in range(length)] for length in (1, 15, 17, 33, 150)]


def _alone(
    checkpoint: Path, prompts: Sequence[list[int]], quantization: Quantization
) -> list[list[int]]:
    """Greedy tokens of one engine, prompt by prompt."""
    runner = load_runner(
        checkpoint, device="cpu", num_blocks=16, kv_memory_bytes=0, quantization=quantization
    ).runner
    outputs = []
    for prompt in prompts:
        tokens, start = list(prompt), 0
        for _ in range(MAX_TOKENS):
            state = SamplingState(
                sampling=SamplingParameters(temperature=0.0),
                token_ids=tokens,
                num_prompt_tokens=len(prompt),
            )
            chunk = SequenceChunk(
                token_ids=tokens[start:], start=start, block_ids=range(16), sampling=state
            )
            (sampled,) = runner.run([chunk])
            assert sampled is not None
            start = len(tokens)
            tokens.append(sampled.token_id)
        outputs.append(tokens[len(prompt) :])
    return outputs


@pytest.mark.parametrize("quantization", ["fp8", "int8", "int4"])
async def test_two_workers_say_what_one_engine_says(
    make_checkpoint: Callable[..., Path], quantization: Quantization
) -> None:
    checkpoint, prompts = make_checkpoint("qwen3"), _prompts()
    expected = await asyncio.to_thread(_alone, checkpoint, prompts, quantization)
    async with worker_pair(checkpoint, quantization=quantization) as router:
        got = await asyncio.gather(*(router.generate(prompt, MAX_TOKENS) for prompt in prompts))
    assert got == expected

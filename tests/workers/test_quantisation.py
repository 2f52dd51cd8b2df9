"""Workers that round projections, or keys and values, say together what one engine says alone."""

import asyncio
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from workers.worker_pair import worker_pair

from lengthwise_engine.loaded_model import load_runner
from lengthwise_engine.runner.base import SequenceChunk
from lengthwise_engine.runner.sampler import SamplingParameters, SamplingState

pytestmark = [pytest.mark.slow, pytest.mark.timeout(60)]

MAX_TOKENS = 10
_ROUNDINGS = (*({"quantization": each} for each in ("fp8", "int8", "int4")), {"kv_dtype": "int8"})


def _prompts() -> list[list[int]]:
    rng = random.Random(5)
    return [[rng.randrange(2, 256) for _ in range(length)] for length in (1, 15, 17, 33, 150)]


def _alone(checkpoint: Path, prompts: Sequence[list[int]], **rounding: Any) -> list[list[int]]:
    """Greedy tokens of one engine, prompt by prompt."""
    runner = load_runner(
        checkpoint, device="cpu", num_blocks=16, kv_memory_bytes=0, numerics="auto", **rounding
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


@pytest.mark.parametrize("rounding", _ROUNDINGS, ids=str)
async def test_two_workers_that_round_say_what_one_engine_that_rounds_says(
    rounding: dict[str, Any], make_checkpoint: Callable[..., Path]
) -> None:
    checkpoint, prompts = make_checkpoint("qwen3"), _prompts()
    expected = await asyncio.to_thread(lambda: _alone(checkpoint, prompts, **rounding))
    async with worker_pair(checkpoint, **rounding) as router:
        got = await asyncio.gather(*(router.generate(prompt, MAX_TOKENS) for prompt in prompts))
    assert got == expected

"""Real model families through both workers: greedy tokens equal those of transformers."""

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from harness.workers import PlainRouter

from lengthwise_decode_worker.app import DecodeApplication
from lengthwise_decode_worker.config import DecodeWorkerConfig
from lengthwise_prefill_worker.app import PrefillApplication
from lengthwise_prefill_worker.config import PrefillWorkerConfig

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

PROMPT_LENGTHS = (1, 2, 15, 16, 17, 63, 130, 257, 511, 600)
MAX_TOKENS = 12


@asynccontextmanager
async def _pair(checkpoint: Path) -> AsyncIterator[PlainRouter]:
    """Both workers in this process, their transfer processes beside it, real gRPC between them.

    Prompts above 128 tokens take several chunks and are pushed layer by layer.
    """
    model = str(checkpoint)
    decode = DecodeApplication(DecodeWorkerConfig(model=model, metrics_listen="", num_blocks=256))
    prefill = PrefillApplication(
        PrefillWorkerConfig(
            model=model, metrics_listen="", num_blocks=256, layerwise_tokens=128, piece_bytes=4096
        )
    )
    await asyncio.gather(decode.start(), prefill.start())
    router = PlainRouter(prefill.address, decode.address)
    await router.open()
    try:
        yield router
    finally:
        await router.close()
        await asyncio.gather(decode.drain(), prefill.drain())


def _expected(checkpoint: Path, prompts: Sequence[list[int]]) -> list[list[int]]:
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    outputs = []
    for prompt in prompts:
        ids = torch.tensor([prompt])
        out = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=MAX_TOKENS,
            min_new_tokens=MAX_TOKENS,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
        )
        outputs.append(out[0, len(prompt) :].tolist())
    return outputs


async def test_every_family_speaks_as_in_transformers(any_checkpoint: Path) -> None:
    rng = random.Random(5)
    prompts = [[rng.randrange(2, 256) for _ in range(length)] for length in PROMPT_LENGTHS]
    expected = await asyncio.to_thread(_expected, any_checkpoint, prompts)
    assert len({tuple(tokens) for tokens in expected}) > len(prompts) // 2, "a degenerate model"
    async with _pair(any_checkpoint) as router:
        together = await asyncio.gather(*(router.generate(p, MAX_TOKENS) for p in prompts))
    assert together == expected

"""A prefill and a decode worker in this process, their transfer processes beside it, real gRPC
between them; and what transformers says to the same prompts."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from harness.workers import PlainRouter, fork_children

from lengthwise_decode_worker.app import DecodeWorker
from lengthwise_decode_worker.config import DecodeWorkerConfig
from lengthwise_engine.kv.layout import KVDtype
from lengthwise_engine.models.decoder_loader import Quantization
from lengthwise_policy.decode.policy import DecodePolicy
from lengthwise_prefill_worker.app import PrefillWorker
from lengthwise_prefill_worker.config import PrefillWorkerConfig
from lengthwise_worker.application import WorkerApplication


@asynccontextmanager
async def worker_pair(
    checkpoint: Path,
    *,
    decode_blocks: int = 256,
    decode_policy: DecodePolicy | None = None,
    quantization: Quantization = "none",
    prefill_ranks: int = 1,
    decode_ranks: int = 1,
    dtype: Literal["auto", "float32", "bfloat16"] = "auto",
    kv_dtype: KVDtype = "auto",
    prefill_checkpoint: Path | None = None,
) -> AsyncIterator[PlainRouter]:
    """Prompts above 128 tokens take several chunks and are pushed layer by layer. A checkpoint of
    the prefill worker's own is that of another version."""
    fork_children()
    model = str(checkpoint)
    decode = WorkerApplication(
        DecodeWorkerConfig(
            model=model,
            metrics_listen="",
            threads=1,
            dtype=dtype,
            kv_dtype=kv_dtype,
            quantization=quantization,
            tensor_parallel_size=decode_ranks,
            num_blocks=decode_blocks,
            policy=decode_policy or DecodePolicy(),
        ),
        DecodeWorker,
    )
    prefill = WorkerApplication(
        PrefillWorkerConfig(
            model=str(prefill_checkpoint or checkpoint),
            metrics_listen="",
            threads=1,
            dtype=dtype,
            kv_dtype=kv_dtype,
            quantization=quantization,
            tensor_parallel_size=prefill_ranks,
            num_blocks=256,
            layerwise_tokens=128,
            piece_bytes=4096,
        ),
        PrefillWorker,
    )
    await asyncio.gather(decode.start(), prefill.start())
    router = PlainRouter(prefill.address, decode.address)
    await router.open()
    try:
        yield router
    finally:
        await router.close()
        await asyncio.gather(decode.drain(), prefill.drain())


def greedy_tokens(
    checkpoint: Path, prompts: Sequence[list[int]], max_tokens: int
) -> list[list[int]]:
    """What transformers generates."""
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(1)  # of this thread
    model: Any = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    outputs = []
    for prompt in prompts:
        ids = torch.tensor([prompt])
        out = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=max_tokens,
            min_new_tokens=max_tokens,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
        )
        outputs.append(out[0, len(prompt) :].tolist())
    return outputs

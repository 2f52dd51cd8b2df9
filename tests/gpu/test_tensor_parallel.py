"""Two ranks with a GPU each say over NCCL what one does."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from lengthwise_engine.errors import RankError
from lengthwise_engine.loaded_model import load_runner
from lengthwise_engine.runner.base import SequenceChunk
from lengthwise_engine.runner.sampler import SamplingParameters, SamplingState

pytestmark = [pytest.mark.gpu, pytest.mark.slow, pytest.mark.timeout(300)]

PROMPT = [(5 * i + i * i) % 300 for i in range(200)]
BLOCKS = range(16)


def _generate(folder: Path, size: int) -> tuple[list[int], list[int]]:
    """Greedy tokens, each step launched before the last one's token is known; and the layers that
    the prompt's step announced."""
    loaded = load_runner(
        folder,
        device="cuda",
        num_blocks=64,
        kv_memory_bytes=0,
        dtype=torch.float32,
        tensor_parallel_size=size,
        stall_seconds=20.0,
    )
    try:
        state = SamplingState(
            sampling=SamplingParameters(temperature=0.0),
            token_ids=list(PROMPT),
            num_prompt_tokens=len(PROMPT),
        )
        layers: list[int] = []
        chunk = SequenceChunk(token_ids=PROMPT, start=0, block_ids=BLOCKS, sampling=state)
        pending = loaded.runner.launch([chunk], layers.append)
        tokens: list[int] = []
        while len(tokens) < 16:
            chunk = SequenceChunk(
                token_ids=(0,), start=chunk.end, block_ids=BLOCKS, sampling=state, follows=0
            )
            following = loaded.runner.launch([chunk])
            (sampled,) = pending.tokens()
            assert sampled is not None
            tokens.append(sampled.token_id)
            state.token_ids = [*state.token_ids, sampled.token_id]
            pending = following
        return tokens, layers
    finally:
        loaded.close()


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
@pytest.mark.parametrize("variant", ["llama-biases", "qwen3"])
def test_two_ranks_say_what_one_does(make_checkpoint: Callable[..., Path], variant: str) -> None:
    folder = make_checkpoint(variant)
    assert _generate(folder, 2) == _generate(folder, 1)


def test_more_ranks_than_gpus_are_refused(make_checkpoint: Callable[..., Path]) -> None:
    size = 2 * torch.cuda.device_count()
    with pytest.raises(RankError, match=f"tensor_parallel_size {size} needs as many CUDA devices"):
        load_runner(
            make_checkpoint("llama", num_attention_heads=64, num_key_value_heads=64, head_dim=16),
            device="cuda",
            num_blocks=8,
            kv_memory_bytes=0,
            tensor_parallel_size=size,
        )

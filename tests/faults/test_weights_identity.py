"""KV of one model's weights is never used with another's, however little of them was changed."""

import shutil
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest
import torch
from safetensors.torch import load_file, save_file
from workers.worker_pair import greedy_tokens, worker_pair

SHAPE = {"hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 8}
EDITED = "model.layers.1.mlp.down_proj.weight"
NUM_TOKENS = 24
PROMPT = list(b"The capital of a country is where its government sits, and so")


@pytest.mark.slow
async def test_in_a_rolling_update_an_answer_is_one_models_or_none(
    make_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    """The new model is the old one with one layer's projection edited."""
    old = make_checkpoint("llama", **SHAPE)
    new = shutil.copytree(old, tmp_path / "new")
    weights = load_file(new / "model.safetensors")
    noise = torch.randn(weights[EDITED].shape, generator=torch.Generator().manual_seed(3))
    weights[EDITED] += 0.5 * noise
    save_file(weights, new / "model.safetensors", metadata={"format": "pt"})
    truths = [greedy_tokens(model, [PROMPT], NUM_TOKENS)[0] for model in (old, new)]
    assert truths[0] != truths[1]
    async with worker_pair(new, prefill_checkpoint=old) as router:
        try:
            answer = await router.generate(PROMPT, NUM_TOKENS)
        except (grpc.aio.AioRpcError, AssertionError):
            return  # they are not paired
    assert answer in truths

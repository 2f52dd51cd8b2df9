"""The engine on Triton kernels says what it says on plain PyTorch.

Where there is a GPU, tests/gpu/test_engine.py says so of the real thing; here the same kernels are
interpreted, in the places where the engine calls operations.
"""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from lengthwise_engine.loaded_model import load_runner
from lengthwise_engine.models import decoder, linear
from lengthwise_engine.models.decoder_loader import Quantization
from lengthwise_engine.runner import sampler, step_tensors
from lengthwise_engine.runner.base import SequenceChunk
from lengthwise_engine.runner.sampler import SamplingParameters, SamplingState

pytest.importorskip("triton", reason="Triton is not installed")
from lengthwise_kernels.gpu import (
    kv_clear,
    kv_store,
    quantise_rows,
    rms_norm,
    sampling,
    scaled_linear,
    silu_mul,
)
from lengthwise_kernels.gpu.attention import plan

KERNELS = {
    "add_rms_norm": rms_norm.add_rms_norm,
    "add_rms_norm_fp8": quantise_rows.add_rms_norm_fp8,
    "lay_out_attention": plan.lay_out_attention,
    "quantise_rows": quantise_rows.quantise_rows,
    "clear_blocks": kv_clear.clear_blocks,
    "rms_norm": rms_norm.rms_norm,
    "rotate_and_store": kv_store.rotate_and_store,
    "sample_tokens": sampling.sample_tokens,
    "scaled_linear": scaled_linear.scaled_linear,
    "silu_mul": silu_mul.silu_mul,
    "silu_mul_fp8": quantise_rows.silu_mul_fp8,
}
pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

HOT = SamplingParameters(temperature=1.5, top_k=40, top_p=0.9, seed=7)
PROMPTS = {"short": 5, "long": 30}


def _generate(folder: Path, quantization: Quantization) -> list[list[int]]:
    """Both prompts in chunks of 20, then two more tokens of each, in one batch."""
    runner = load_runner(
        folder,
        device="cpu",
        num_blocks=64,
        kv_memory_bytes=0,
        dtype=torch.float32,
        quantization=quantization,
    ).runner
    sequences = [[(7 * i + length) % 250 for i in range(length)] for length in PROMPTS.values()]
    computed = [0, 0]
    ends = [length + 2 for length in PROMPTS.values()]
    while any(len(tokens) < end for tokens, end in zip(sequences, ends, strict=True)):
        chunks = []
        for index, tokens in enumerate(sequences):
            start, end = computed[index], min(len(tokens), computed[index] + 20)
            state = SamplingState(
                sampling=HOT if index else SamplingParameters(temperature=0.0),
                token_ids=tokens,
                num_prompt_tokens=end,
            )
            chunks.append(
                SequenceChunk(
                    token_ids=tokens[start:end],
                    start=start,
                    block_ids=range(10 * index + 1, 10 * index + 11),
                    sampling=state if end == len(tokens) else None,
                )
            )
            computed[index] = end
        for tokens, sampled in zip(sequences, runner.run(chunks), strict=True):
            if sampled is not None:
                tokens.append(sampled.token_id)
    return sequences


@pytest.mark.parametrize("quantization", ["none", "fp8"])
def test_text_is_that_of_plain_pytorch(
    device: str,
    quantization: Quantization,
    make_checkpoint: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A model with head norms, biases, and layers with and without a window of 12."""
    if device != "cpu":
        pytest.skip("tests/gpu/test_engine.py runs the engine on the GPU")
    layers = ["sliding_attention", "full_attention"]
    folder = make_checkpoint(
        "qwen3-biases-layer-types", num_hidden_layers=2, layer_types=layers, sliding_window=12
    )
    expected = _generate(folder, quantization)
    replaced = set()
    for name, kernel in KERNELS.items():
        for module in (decoder, linear, step_tensors, sampler):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, kernel)
                replaced.add(name)
    assert replaced == KERNELS.keys()
    assert _generate(folder, quantization) == expected

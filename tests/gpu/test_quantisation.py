"""Projections in 8-bit floating point on a GPU, near those of the CPU and in half the memory; and
with weights of 4 bits."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from engine.integer_checkpoints import Format, store
from harness.fp8_checkpoints import scale_projections, store_as_fp8

from lengthwise_engine.loaded_model import load_runner
from lengthwise_engine.models.decoder_loader import Quantization, load_model
from lengthwise_engine.models.linear import Fp8Linear
from lengthwise_engine.models.weights import DenseLayerWeights
from lengthwise_engine.runner.base import SequenceChunk
from lengthwise_engine.runner.sampler import SamplingParameters, SamplingState

pytestmark = [pytest.mark.gpu, pytest.mark.slow]

PROMPT = [(5 * i + i * i) % 300 for i in range(100)]


def _logprobs(
    folder: Path, device: str, dtype: torch.dtype, quantization: Quantization = "fp8"
) -> torch.Tensor:
    runner = load_runner(
        folder,
        device=device,
        num_blocks=8,
        kv_memory_bytes=0,
        dtype=dtype,
        quantization=quantization,
    ).runner
    state = SamplingState(
        sampling=SamplingParameters(temperature=0.0, top_logprobs=320),
        token_ids=PROMPT,
        num_prompt_tokens=len(PROMPT),
    )
    chunk = SequenceChunk(token_ids=PROMPT, start=0, block_ids=range(8), sampling=state)
    (token,) = runner.run([chunk])
    assert token is not None
    found = dict(token.top_logprobs)
    return torch.tensor([found[index] for index in range(320)])


@pytest.mark.parametrize("stored", [False, True], ids=["rounded-at-load", "stored"])
@pytest.mark.parametrize(
    ("dtype", "bound"), [(torch.float32, 0.05), (torch.bfloat16, 0.15)], ids=["triton", "library"]
)
def test_logits_are_near_those_of_the_cpu(
    make_checkpoint: Callable[..., Path],
    tmp_path: Path,
    dtype: torch.dtype,
    bound: float,
    stored: bool,
) -> None:
    """In bfloat16 inputs differ in their last place, so that many are rounded to the other
    neighbour; the difference is as large as FP8's own error, 5 to 13 % in three layers."""
    folder = Path(shutil.copytree(make_checkpoint("qwen2"), tmp_path / "model"))
    scale_projections(folder, 0.5)
    if stored:
        store_as_fp8(folder)
    exact = _logprobs(folder, "cpu", torch.float32)
    got = _logprobs(folder, "cuda", dtype)
    assert (got - exact).norm() < bound * (exact - exact.mean()).norm()


@pytest.mark.parametrize(
    "how",
    [Format("gptq"), Format("gptq", act_order=True), Format("awq"), Format("packed", bits=8)],
    ids=lambda how: f"{how.kind}-{how.bits}{'-order' * how.act_order}",
)
def test_stored_integers_are_computed_as_on_the_cpu(
    how: Format, make_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(make_checkpoint("llama-biases"), tmp_path / "model"))
    store(folder, how)
    exact = _logprobs(folder, "cpu", torch.float32, "none")
    for dtype, bound in ((torch.float32, 1e-3), (torch.bfloat16, 0.05)):
        got = _logprobs(folder, "cuda", dtype, "none")
        assert (got - exact).norm() < bound * (exact - exact.mean()).norm()


def test_a_quantised_matrix_leaves_nothing_of_the_full_one(
    make_checkpoint: Callable[..., Path],
) -> None:
    before = torch.cuda.memory_allocated()
    model = load_model(
        make_checkpoint("llama"), torch.device("cuda"), torch.bfloat16, quantization="fp8"
    )
    weights = model.weights
    kept = weights.embedding.nbytes + weights.head.weight.nbytes + weights.norm.nbytes
    for layer in weights.layers:
        assert isinstance(layer, DenseLayerWeights)
        kept += layer.attention_norm.nbytes + layer.mlp_norm.nbytes
        for projection in (layer.qkv, layer.output, layer.gate_up, layer.down):
            assert isinstance(projection, Fp8Linear)
            kept += projection.weight.values.nbytes + projection.weight.scales.nbytes
    # torch rounds every tensor up to 512 bytes.
    tensors = 3 + 10 * len(weights.layers) + 1
    assert torch.cuda.memory_allocated() - before <= kept + 512 * tensors

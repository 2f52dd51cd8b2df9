"""The engine on Triton kernels says what it says on plain PyTorch.

Where there is a GPU, tests/gpu/test_engine.py says so of the real thing; here the same kernels are
interpreted, in the places where the engine calls operations.
"""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from lengthwise_engine.loaded_model import load_runner
from lengthwise_engine.models import decoder, linear, weight_reader, weights
from lengthwise_engine.models.decoder_loader import Quantization
from lengthwise_engine.models.experts import grouped
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
from lengthwise_kernels.gpu.experts import combine, grouped_linear, routing

KERNELS = {
    "add_rms_norm": rms_norm.add_rms_norm,
    "add_rms_norm_fp8": quantise_rows.add_rms_norm_fp8,
    "combine": combine.combine,
    "gathered_linear": grouped_linear.gathered_linear,
    "lay_out_attention": plan.lay_out_attention,
    "quantise_rows": quantise_rows.quantise_rows,
    "clear_blocks": kv_clear.clear_blocks,
    "rms_norm": rms_norm.rms_norm,
    "rotate_and_store": kv_store.rotate_and_store,
    "route": routing.route,
    "sample_tokens": sampling.sample_tokens,
    "scattered_linear": grouped_linear.scattered_linear,
    "scaled_linear": scaled_linear.scaled_linear,
    "silu_mul": silu_mul.silu_mul,
    "silu_mul_fp8": quantise_rows.silu_mul_fp8,
}
pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

HOT = SamplingParameters(temperature=1.5, top_k=40, top_p=0.9, seed=7)
PROMPTS = {"short": 3, "long": 19}


def _generate(folder: Path, quantization: Quantization) -> list[list[int]]:
    """Both prompts in chunks of 12, then two more tokens of each, in one batch."""
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
            start, end = computed[index], min(len(tokens), computed[index] + 12)
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


def _use_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    replaced = set()
    for name, kernel in KERNELS.items():
        for module in (decoder, grouped, linear, weights, step_tensors, sampler):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, kernel)
                replaced.add(name)
    assert replaced == KERNELS.keys()
    # Packed weights are oneDNN's, and of CPUs.
    monkeypatch.setattr(weight_reader, "packs", lambda device, dtype: False)
    monkeypatch.setattr(weight_reader, "packs_copy", lambda weight: False)


@pytest.mark.parametrize("quantization", ["none", "fp8"])
def test_text_is_that_of_plain_pytorch(
    device: str,
    quantization: Quantization,
    make_checkpoint: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A model with head norms, biases, and layers with and without a window of 8."""
    if device != "cpu":
        pytest.skip("tests/gpu/test_engine.py runs the engine on the GPU")
    layers = ["sliding_attention", "full_attention"]
    folder = make_checkpoint(
        "qwen3-biases-layer-types", num_hidden_layers=2, layer_types=layers, sliding_window=8
    )
    expected = _generate(folder, quantization)
    _use_kernels(monkeypatch)
    assert _generate(folder, quantization) == expected


@pytest.mark.parametrize("quantization", ["none", "fp8"])
def test_text_of_a_mixture_of_experts_is_that_of_plain_pytorch(
    device: str,
    quantization: Quantization,
    make_checkpoint: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One expert after the other, and all at once."""
    if device != "cpu":
        pytest.skip("tests/gpu/test_engine.py runs the engine on the GPU")
    folder = make_checkpoint("qwen3_moe-some-dense", num_hidden_layers=2, sliding_window=8)
    expected = _generate(folder, quantization)
    monkeypatch.setattr(weights, "groups_experts", lambda device: True)
    assert _generate(folder, quantization) == expected
    _use_kernels(monkeypatch)
    assert _generate(folder, quantization) == expected


_LAUNCHES_NOTHING = (
    *("view", "_unsafe_view", "empty", "new_empty", "select", "slice", "split", "unbind", "t"),
    *("transpose", "detach", "alias", "as_strided", "expand", "unsqueeze", "squeeze", "flatten"),
)


class Launches(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the kernels of Triton, and PyTorch's operations but those that only look at a
    tensor or make room for one."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names = Counter[str]()
        interpreter = pytest.importorskip("triton.runtime.interpreter")
        run = interpreter.GridExecutor.__call__

        def counted(executor: Any, *args: Any, **kwargs: Any) -> Any:
            self.names[executor.fn.__name__] += 1
            with _disable_current_modes():
                return run(executor, *args, **kwargs)

        monkeypatch.setattr(interpreter.GridExecutor, "__call__", counted)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        name = func.name().removeprefix("aten::").partition(".")[0]
        if not name.startswith(_LAUNCHES_NOTHING):
            self.names[name] += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(("variant", "launches_each"), [("llama", 10), ("mixtral", 14)])
def test_a_layer_of_a_decode_step_takes_few_launches(
    device: str,
    variant: str,
    launches_each: int,
    make_checkpoint: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Four products, two norms, the gate, rotation with the cache, attention and its merge; with
    experts a product more, of the router, choosing, sorting, and adding what they found."""
    if device != "cpu":
        pytest.skip("counts what the interpreter runs")
    _use_kernels(monkeypatch)
    monkeypatch.setattr(weights, "groups_experts", lambda device: True)
    state = SamplingState(sampling=HOT, token_ids=[3] * 9, num_prompt_tokens=8)
    chunk = SequenceChunk(token_ids=[3], start=8, block_ids=[1], sampling=state)
    counts = []
    for num_layers in (2, 3):
        folder = make_checkpoint(variant, num_hidden_layers=num_layers)
        runner = load_runner(
            folder, device="cpu", num_blocks=4, kv_memory_bytes=0, dtype=torch.float32
        ).runner
        with monkeypatch.context() as patched, Launches(patched) as launches:
            runner.run([chunk])
        counts.append(launches.names)
    layer = counts[1] - counts[0]
    assert layer.total() == launches_each, layer

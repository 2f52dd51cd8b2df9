"""The engine computes alike whatever is computed with a token, on the kernels that it takes for
`numerics: invariant` on a GPU, in Triton's interpreter."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from engine.random_schedule import NUM_BLOCKS, CachedRunner, alone, in_crowds, random_requests

from lengthwise_engine import invariance
from lengthwise_engine.loaded_model import load_runner
from lengthwise_engine.models import decoder, linear, weight_reader
from lengthwise_engine.models.decoder_loader import Quantization
from lengthwise_engine.runner import sampler, step_tensors

pytest.importorskip("triton", reason="Triton is not installed")
from lengthwise_kernels.attention_plan import AttentionSpec
from lengthwise_kernels.gpu import (
    invariant_linear,
    kv_store,
    quantise_rows,
    rms_norm,
)
from lengthwise_kernels.gpu import scaled_linear as scaled
from lengthwise_kernels.gpu.attention import plan


def lay_out_attention(*arguments: Any, spec: AttentionSpec, **options: Any) -> Any:
    """Whether rows of so few keys differ is chance."""
    assert spec.invariant
    return plan.lay_out_attention(*arguments, spec=spec, **options)


def scaled_linear(*arguments: Any, invariant: bool, **options: Any) -> torch.Tensor:
    assert invariant
    return scaled.scaled_linear(*arguments, invariant=invariant, **options)


# The others compute every number of a row from that row alone, and the interpreter is slow.
KERNELS = {
    "add_rms_norm": rms_norm.add_rms_norm,
    "invariant_linear": invariant_linear.invariant_linear,
    "is_alike_alone": invariant_linear.is_alike_alone,
    "lay_out_attention": lay_out_attention,
    "quantise_rows": quantise_rows.quantise_rows,
    "rotate_and_store": kv_store.rotate_and_store,
    "scaled_linear": scaled_linear,
}


@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.usefixtures("exact_products")
@pytest.mark.parametrize("quantization", ["none", "fp8"])
def test_an_answer_is_the_same_in_any_batch_and_chunk(
    device: str,
    quantization: Quantization,
    make_checkpoint: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """After the operations were tried one by one, as at each start."""
    if device != "cpu":
        pytest.skip("tests/gpu/test_numerics.py computes on the GPU")
    monkeypatch.setattr(weight_reader, "packs", lambda device, dtype: False)
    monkeypatch.setattr(weight_reader, "packs_copy", lambda weight: False)
    # Which rows and keys do it is tried by test_gpu_invariance.py.
    monkeypatch.setattr(invariance, "_ROWS", 3)
    monkeypatch.setattr(invariance, "_PARTS", ((0, 1), (1, 3)))
    monkeypatch.setattr(invariance, "_TOKENS", 66)
    monkeypatch.setattr(invariance, "_AGAIN", ((0, 1), (63, 65)))
    replaced = set()
    for name, kernel in KERNELS.items():
        for module in (decoder, linear, step_tensors, sampler, invariance):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, kernel)
                replaced.add(name)
    assert replaced == KERNELS.keys()
    model = load_runner(
        make_checkpoint(
            "qwen2-some-windows", num_hidden_layers=2, max_window_layers=1, sliding_window=20
        ),
        device="cpu",
        num_blocks=NUM_BLOCKS,
        dtype=torch.bfloat16,
        quantization=quantization,
        numerics="invariant",
    )
    assert model.numerics
    worker = CachedRunner(model.runner, model.cache)
    requests = random_requests(40, model.spec.vocab_size, seed=6)
    requests = [one for one in requests if len(one.prompt) <= 40 and one.num_tokens <= 4][:2]
    assert [len(one.prompt) for one in requests] == [37, 34]  # with a common prefix
    assert in_crowds([worker], requests, seed=6) == [alone(worker, one) for one in requests]

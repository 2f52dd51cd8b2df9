"""Keys and values in 8 bits: what is computed from them, what they take, where they are refused."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from engine.next_token import load, logprobs, prompt

from lengthwise_checkpoint.families import read_config
from lengthwise_engine.errors import CacheSizeError
from lengthwise_engine.kv.layout import KVLayout
from lengthwise_engine.loaded_model import load_runner
from lengthwise_engine.models.decoder_loader import read_spec
from lengthwise_engine.models.foreign.skeleton import read_foreign_spec
from lengthwise_engine.models.shard import ModelShard
from lengthwise_engine.runner.memory_plan import MemorySettings, plan_memory
from lengthwise_kernels.reference.kv8 import dequantise_heads, quantise_heads


def rounded(x: torch.Tensor) -> torch.Tensor:
    """By hand."""
    scale = (x.abs().amax(-1, keepdim=True) / 127).bfloat16().float()
    return (x / scale).round() * scale


def reference_logprobs(folder: Path, length: int) -> torch.Tensor:
    """Of transformers, with keys and values that are rounded on their way into its cache."""
    from transformers import AutoModelForCausalLM, DynamicCache

    class RoundedCache(DynamicCache):
        def update(
            self, key_states: Any, value_states: Any, layer_idx: int, *rest: Any, **more: Any
        ) -> Any:
            keys, values = rounded(key_states), rounded(value_states)
            return super().update(keys, values, layer_idx, *rest, **more)

    load_model: Callable[..., Any] = AutoModelForCausalLM.from_pretrained
    model = load_model(folder, dtype=torch.float32).eval()
    with torch.inference_mode():
        result = model(torch.tensor([prompt(length)]), past_key_values=RoundedCache())
    return torch.as_tensor(result.logits[0, -1]).log_softmax(-1)


@pytest.mark.filterwarnings("ignore:.past_key_values. is deprecated")
@pytest.mark.parametrize("numerics", ["fast", "invariant"])
@pytest.mark.parametrize("variant", ["llama", "qwen3"])
def test_what_is_computed_is_what_a_cache_rounded_by_hand_gives(
    variant: str, numerics: Any, make_checkpoint: Callable[..., Path]
) -> None:
    folder = make_checkpoint(variant)
    loaded = load(folder, kv_dtype="int8", dtype=torch.float32, numerics=numerics)
    full = load(folder, dtype=torch.float32)
    for length in (1, 5, 40, 300):
        expected = reference_logprobs(folder, length)
        spread = (expected - expected.mean()).norm()
        assert (logprobs(loaded, length) - expected).norm() / spread < 1e-3
        assert (logprobs(full, length) - expected).norm() / spread > 4e-3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_number_is_off_by_half_a_step_of_its_head_at_most(dtype: torch.dtype) -> None:
    x = torch.randn(5, 3, 64, generator=torch.Generator().manual_seed(1))
    x *= torch.tensor([1e-3, 1.0, 50.0]).unsqueeze(1)
    x[2, 1] = 0.0
    x = x.to(dtype)
    stored = quantise_heads(x)
    assert (stored.dtype, stored.shape) == (torch.int8, (5, 3, 66))
    back = dequantise_heads(stored, torch.float32)
    step = x.float().abs().amax(-1, keepdim=True) / 127
    assert ((back - x.float()).abs() <= 0.51 * step).all()
    assert torch.equal(back[2, 1], torch.zeros(64))


@pytest.mark.parametrize("size", [1e-30, 1e30])
def test_scales_have_the_range_of_bfloat16(size: float) -> None:
    x = torch.linspace(-size, size, 64)
    back = dequantise_heads(quantise_heads(x), torch.float32)
    assert ((back - x).abs() <= 0.51 * size / 127).all()


def test_the_same_memory_has_nearly_twice_the_blocks(make_checkpoint: Callable[..., Path]) -> None:
    folder = make_checkpoint("llama", head_dim=64)
    options: dict[str, Any] = {"device": "cpu", "dtype": torch.bfloat16, "kv_memory_bytes": 1 << 20}
    full, halved = (load_runner(folder, **options, kv_dtype=each) for each in ("auto", "int8"))
    assert halved.cache.tensor.nbytes <= 1 << 20
    assert halved.shards.num_blocks >= 1.93 * full.shards.num_blocks
    assert halved.shards.layout.block_bytes <= 0.53 * full.shards.layout.block_bytes
    assert halved.fingerprint == full.fingerprint


def test_workers_pair_only_where_both_store_8_bits() -> None:
    layout = KVLayout(num_layers=2, num_kv_heads=2, head_dim=64, block_size=16, dtype="bfloat16")
    halved = replace(layout, dtype="int8")
    assert layout.fingerprint("cpu") != halved.fingerprint("cpu")


def test_where_there_is_no_such_cache_it_is_refused_before_anything_is_loaded(
    make_checkpoint: Callable[..., Path],
) -> None:
    folder = make_checkpoint("llama")
    spec = read_spec(folder)
    foreign = read_foreign_spec(read_config(folder))
    for model, device, why in (
        (ModelShard(whole=spec), "cuda", "the attention kernels of GPUs"),
        (ModelShard(whole=spec, size=2), "cpu", "tensor_parallel_size 2"),
        (foreign, "cpu", "llama is not computed by our own code"),
    ):
        with pytest.raises(CacheSizeError, match=rf"kv_dtype: got int8, but .*{why}"):
            plan_memory(
                model,
                device_type=device,
                dtype="bfloat16",
                budget_bytes=1 << 40,
                settings=MemorySettings(kv_dtype="int8"),
            )

"""The plan of a worker's memory: held against what a model really takes, and its edges."""

from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from harness.checkpoints import CHECKPOINT_VARIANTS

from lengthwise_engine.errors import CacheSizeError, DeviceMemoryError
from lengthwise_engine.loaded_model import load_runner
from lengthwise_engine.models.decoder_loader import load_model, read_spec
from lengthwise_engine.models.experts.routed import Experts
from lengthwise_engine.models.integers.linear import IntegerLinear
from lengthwise_engine.models.linear import Fp8Linear, Linear
from lengthwise_engine.models.shard import ModelShard
from lengthwise_engine.models.weight_files import WeightFiles
from lengthwise_engine.models.weights import DecoderWeights, LayerWeights, load_weights
from lengthwise_engine.runner.memory_plan import (
    MAX_BLOCKS,
    MemoryPlan,
    MemorySettings,
    plan_memory,
    weight_bytes,
)
from lengthwise_engine.toy.checkpoint import write_toy_checkpoint

GIB = 1 << 30
CHECKPOINT = Path(__file__).parents[2] / "engine/lengthwise_engine/demo_model"


def parts(layer: LayerWeights) -> Iterator[Any]:
    """Tensors and projections."""
    for field in fields(layer):
        value = getattr(layer, field.name)
        if not isinstance(value, Experts):
            yield value
            continue
        yield value.router
        for expert in value.experts:
            yield from (expert.gate_up, expert.down)


def tensors(weights: DecoderWeights) -> dict[int, torch.Tensor]:
    """By where they lie: a tied head is a view of the embedding, unless it is packed."""
    found: list[torch.Tensor | None] = [weights.embedding, weights.norm, weights.head.weight]
    for layer in weights.layers:
        for value in parts(layer):
            if isinstance(value, Linear):
                found += [value.weight, value.bias]
            elif isinstance(value, Fp8Linear):
                found += [value.weight.values, value.weight.scales, value.bias]
            elif not isinstance(value, IntegerLinear):
                found.append(value)
    return {
        id(tensor) if tensor.is_mkldnn else tensor.data_ptr(): tensor
        for tensor in found
        if tensor is not None
    }


@pytest.mark.parametrize("variant", CHECKPOINT_VARIANTS)
@pytest.mark.parametrize("quantization", ["none", "fp8"])
def test_weights_are_counted_to_the_byte(
    make_checkpoint: Callable[..., Path], variant: str, quantization: str
) -> None:
    folder = make_checkpoint(variant)
    model = load_model(folder, torch.device("cpu"), torch.bfloat16, quantization)  # type: ignore[arg-type]
    taken = sum(tensor.nbytes for tensor in tensors(model.weights).values())
    assert weight_bytes(ModelShard(whole=model.spec), "cpu", "bfloat16") == taken


@pytest.mark.parametrize("variant", ["llama-biases", "qwen3", "mixtral"])
@pytest.mark.parametrize("bits", [8, 4])
def test_rounded_weights_are_counted_and_are_fewer(
    make_checkpoint: Callable[..., Path], variant: str, bits: int
) -> None:
    """oneDNN says how it fills up blocks only once it has: that is counted at its most."""
    folder = make_checkpoint(variant)
    model = load_model(folder, torch.device("cpu"), torch.bfloat16, f"int{bits}")  # type: ignore[arg-type]
    taken = sum(tensor.nbytes for tensor in tensors(model.weights).values())
    integers = [
        part
        for layer in model.weights.layers
        for part in parts(layer)
        if isinstance(part, IntegerLinear)
    ]
    biases = [each.bias for each in integers if each.bias is not None]
    taken += sum(each.num_bytes for each in integers) + sum(bias.nbytes for bias in biases)
    shard = ModelShard(whole=model.spec)
    counted = weight_bytes(shard, "cpu", "bfloat16")
    full = weight_bytes(ModelShard(whole=read_spec(folder)), "cpu", "bfloat16")
    assert taken <= counted < full
    assert counted == taken or bits == 8


def test_the_experts_of_a_rank_are_counted_to_the_byte(
    make_checkpoint: Callable[..., Path],
) -> None:
    folder = make_checkpoint("qwen3_moe")
    shard = ModelShard(whole=read_spec(folder), rank=1, size=2, expert_parallel=True)
    files = WeightFiles(folder)
    weights = load_weights(files, shard, device=torch.device("cpu"), dtype=torch.bfloat16)
    taken = sum(tensor.nbytes for tensor in tensors(weights).values())
    assert weight_bytes(shard, "cpu", "bfloat16") == taken


def plan(budget_bytes: int, device_type: str = "cpu", **settings: Any) -> MemoryPlan:
    return plan_memory(
        ModelShard(whole=replace(read_spec(CHECKPOINT), context_length=100_000)),
        device_type=device_type,
        dtype="float32",
        budget_bytes=budget_bytes,
        settings=MemorySettings(**settings),
    )


def test_a_cache_gets_all_that_the_rest_leaves_and_not_a_block_more() -> None:
    found = plan(GIB)
    block_bytes = found.cache_bytes // found.num_blocks
    assert GIB - block_bytes < found.total_bytes <= GIB


def test_graphs_are_counted_on_gpus_alone() -> None:
    with_graphs = plan(4 * GIB, "cuda", graph_memory_bytes=GIB)
    without = plan(4 * GIB, "cuda")
    assert 0 <= without.cache_bytes - with_graphs.cache_bytes - GIB < 2 * with_graphs.cache_bytes
    assert plan(GIB, graph_memory_bytes=GIB).graph_bytes == 0


def test_a_cache_that_cannot_hold_the_context_clamps_it_to_the_last_token() -> None:
    found = plan(0, num_blocks=8)
    assert (found.context_length, found.is_clamped_by_cache) == (8 * 16 + 1, True)
    whole = plan(0, num_blocks=6250)
    assert (whole.context_length, whole.is_clamped_by_cache) == (100_000, False)


def test_max_context_clamps_without_a_warning() -> None:
    found = plan(GIB, max_context=1000)
    assert (found.context_length, found.is_clamped_by_cache) == (1000, False)
    both = plan(0, num_blocks=8, max_context=1000)
    assert (both.context_length, both.is_clamped_by_cache) == (129, True)


@pytest.mark.parametrize("max_context", [15, 100_001])
def test_a_context_below_a_block_or_beyond_the_model_is_refused(max_context: int) -> None:
    with pytest.raises(CacheSizeError, match=rf"max_context: got {max_context}, expected 16 .* to"):
        plan(GIB, max_context=max_context)


def test_a_cache_of_asked_bytes_does_not_depend_on_the_budget() -> None:
    assert plan(1, kv_memory_bytes=GIB).cache_bytes <= GIB
    with pytest.raises(CacheSizeError, match=r"kv_memory_bytes: got 100, but one KV block has"):
        plan(GIB, kv_memory_bytes=100)


def test_a_budget_that_holds_no_block_says_what_is_needed() -> None:
    with pytest.raises(DeviceMemoryError, match=r"may take 100 MiB, but .* need \d+ MiB.* fewer"):
        plan(100 << 20)


def test_a_tiny_model_does_not_take_a_huge_machine() -> None:
    assert plan(10_000 * GIB).num_blocks == MAX_BLOCKS


def test_ranks_on_a_cpu_divide_its_memory(make_checkpoint: Callable[..., Path]) -> None:
    folder = make_checkpoint("llama")
    alone = load_runner(folder, device="cpu", memory_bytes=GIB)
    blocks = alone.cache.num_blocks
    with pytest.raises(DeviceMemoryError, match="run fewer workers here"):
        load_runner(folder, device="cpu", memory_bytes=GIB // 2, tensor_parallel_size=2)
    shared = load_runner(folder, device="cpu", memory_bytes=2 * GIB, tensor_parallel_size=2)
    try:
        # A rank has the same memory then, for half of the heads and less than half of the weights.
        assert 2 * blocks <= shared.shards.num_blocks < 2.01 * blocks
    finally:
        shared.close()


def test_the_toy_has_no_weights(tmp_path: Path) -> None:
    write_toy_checkpoint(tmp_path, num_layers=2, context_length=160)
    loaded = load_runner(tmp_path, device="cpu", memory_bytes=GIB)
    assert loaded.spec.context_length == 160
    assert 0.9 * GIB - (384 << 20) >= loaded.cache.tensor.nbytes > 0.4 * GIB

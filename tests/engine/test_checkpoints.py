"""Weights on disk: how they may be stored, and how damage to them is refused."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lengthwise_checkpoint.errors import CheckpointError
from lengthwise_checkpoint.spec import DecoderSpec
from lengthwise_engine.models.decoder_loader import load_model
from lengthwise_engine.models.linear import Linear
from lengthwise_engine.models.weights import DenseLayerWeights
from lengthwise_kernels import packed

CopyOf = Callable[..., Path]
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
CPU = torch.device("cpu")


def _shard(folder: Path, num_files: int) -> None:
    """Spread model.safetensors over files in the way transformers names them."""
    tensors = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    weight_map: dict[str, str] = {}
    for number in range(num_files):
        name = f"model-{number + 1:05}-of-{num_files:05}.safetensors"
        part = dict(sorted(tensors.items())[number::num_files])
        save_file(part, folder / name, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(part, name)
    index = {"metadata": {"total_size": 0}, "weight_map": weight_map}
    (folder / INDEX).write_text(json.dumps(index))


def test_a_sharded_checkpoint_holds_the_same_model(copy_of: CopyOf) -> None:
    folder = copy_of("qwen3-biases-layer-types")
    single = load_model(folder, CPU).weights
    _shard(folder, 3)
    sharded = load_model(folder, CPU).weights
    assert torch.equal(single.embedding, sharded.embedding)
    for one, other in zip(single.layers, sharded.layers, strict=True):
        assert isinstance(one, DenseLayerWeights)
        assert isinstance(other, DenseLayerWeights)
        for mine, theirs in ((one.qkv, other.qkv), (one.down, other.down)):
            assert isinstance(mine, Linear)
            assert isinstance(theirs, Linear)
            assert torch.equal(mine.weight.to_dense(), theirs.weight.to_dense())
            assert (mine.bias is None) == (theirs.bias is None)
            assert mine.bias is None or theirs.bias is None or torch.equal(mine.bias, theirs.bias)


@pytest.mark.skipif(
    not packed.multiplies_bfloat16(), reason="this CPU has no instructions for bfloat16"
)
@pytest.mark.parametrize(
    ("stored", "computed"),
    [("bfloat16", torch.bfloat16), ("float16", torch.float32), ("float32", torch.float32)],
)
def test_a_cpu_computes_in_what_is_stored_where_it_has_instructions_for_it(
    stored: str, computed: torch.dtype, copy_of: CopyOf
) -> None:
    folder = copy_of("llama-gqa-tied", {"dtype": stored})
    assert load_model(folder, CPU).dtype == computed
    assert load_model(folder, CPU, torch.float16).dtype == torch.float16


def test_a_cpu_without_instructions_for_bfloat16_computes_in_float32(
    copy_of: CopyOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packed, "multiplies_bfloat16", lambda: False)
    folder = copy_of("llama-gqa-tied", {"dtype": "bfloat16"})
    tensors = {name: tensor.bfloat16() for name, tensor in load_file(folder / WEIGHTS).items()}
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    model = load_model(folder, CPU)
    assert (model.spec.dtype, model.dtype) == ("bfloat16", torch.float32)
    stored = tensors["model.layers.1.mlp.down_proj.weight"]
    layer = model.weights.layers[1]
    assert isinstance(layer, DenseLayerWeights)
    down = layer.down
    assert isinstance(down, Linear)
    assert torch.equal(down.weight.to_dense(), stored.float())
    assert model.weights.head.weight.data_ptr() == model.weights.embedding.data_ptr()


def test_a_stored_head_wins_over_a_config_that_says_it_is_tied(
    copy_of: CopyOf,
) -> None:
    folder = copy_of("llama", {"tie_word_embeddings": True})
    weights = load_model(folder, CPU).weights
    assert torch.equal(
        weights.head.weight.to_dense(), load_file(folder / WEIGHTS)["lm_head.weight"]
    )


def _truncate(folder: Path) -> None:
    data = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(data[: len(data) // 2])


def _scribble(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes(b"\xff" * 4096)


def _rewrite(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


def _lose_a_shard(folder: Path) -> None:
    _shard(folder, 2)
    (folder / "model-00002-of-00002.safetensors").unlink()


def _misplace_in_index(folder: Path) -> None:
    _shard(folder, 2)
    index = json.loads((folder / INDEX).read_text())
    index["weight_map"]["model.norm.weight"] = index["weight_map"]["lm_head.weight"]
    (folder / INDEX).write_text(json.dumps(index))


def _empty_the_index(folder: Path) -> None:
    _shard(folder, 1)
    (folder / INDEX).write_text("{}")


def _point_outside(folder: Path) -> None:
    _shard(folder, 1)
    text = (folder / INDEX).read_text()
    (folder / INDEX).write_text(text.replace("model-00001", "../model-00001"))


NORM = "model.norm.weight"
DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "no-weights": (
        lambda folder: (folder / WEIGHTS).rename(folder / "pytorch_model.bin"),
        r"expected model.safetensors or .*index.json, found .*pytorch_model.bin",
    ),
    "truncated": (_truncate, "model.safetensors: not a whole safetensors file"),
    "scribbled": (_scribble, "model.safetensors: not a whole safetensors file"),
    "tensor-missing": (
        lambda folder: _rewrite(folder, lambda tensors: tensors.pop(NORM)),
        f"tensor {NORM} is missing",
    ),
    "wrong-shape": (
        lambda folder: _rewrite(folder, lambda tensors: tensors.update({NORM: torch.ones(63)})),
        rf"{NORM} has shape \(63,\), config.json implies \(64,\)",
    ),
    "wrong-type": (
        lambda folder: _rewrite(
            folder, lambda tensors: tensors.update({NORM: torch.ones(64, dtype=torch.int8)})
        ),
        f"{NORM} has type I8; supported are F32, BF16, F16",
    ),
    "left-over": (
        lambda folder: _rewrite(
            folder,
            lambda tensors: tensors.update(
                {"model.layers.0.self_attn.q_proj.bias": torch.ones(64)}
            ),
        ),
        r"1 tensors that config.json does not account for, such as .*q_proj.bias",
    ),
    "shard-missing": (_lose_a_shard, "00002.safetensors: not found, but .*index.json names it"),
    "index-lies": (_misplace_in_index, f"tensor {NORM} cannot be read"),
    "index-empty": (
        _empty_the_index,
        "weight_map is missing or empty",
    ),
    "index-points-outside": (_point_outside, "outside the folder"),
}


@pytest.mark.parametrize(("damage", "message"), DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_checkpoint_is_refused_by_file(
    damage: Callable[[Path], object], message: str, copy_of: CopyOf
) -> None:
    folder = copy_of("llama")
    damage(folder)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_model(folder, CPU)
    assert str(folder) in str(caught.value)


def test_stored_rotary_frequencies_are_ignored(copy_of: CopyOf) -> None:
    folder = copy_of("llama")
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"
    _rewrite(folder, lambda tensors: tensors.update({name: torch.ones(8)}))
    assert isinstance(load_model(folder, CPU).spec, DecoderSpec)

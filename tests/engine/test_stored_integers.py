"""Checkpoints of GPTQ, AWQ and compressed-tensors: what they stand for, and what is refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from engine.integer_checkpoints import Format, reference_model, store
from engine.next_token import load, logprobs, prompt
from safetensors.torch import load_file, save_file

from lengthwise_checkpoint.errors import CheckpointError, UnsupportedModel
from lengthwise_engine.models.decoder_loader import load_model, read_spec
from lengthwise_engine.models.integers.linear import IntegerLinear
from lengthwise_engine.models.shard import ModelShard
from lengthwise_engine.models.weight_files import WeightFiles
from lengthwise_engine.models.weights import DenseLayerWeights, load_weights
from lengthwise_engine.runner.memory_plan import weight_bytes

CopyOf = Callable[..., Path]
CPU = torch.device("cpu")

FORMATS = {
    "gptq": Format("gptq"),
    "gptq-symmetric-64": Format("gptq", group=64, symmetric=True),
    "gptq-act-order": Format("gptq", act_order=True),
    "gptq-one-group": Format("gptq", group=None),
    "gptq-8": Format("gptq", bits=8, symmetric=True),
    "gptq-8-channel": Format("gptq", bits=8, group=None, symmetric=True),
    "gptq-v2": Format("gptq", changes={"checkpoint_format": "gptq_v2"}),
    "awq": Format("awq"),
    "awq-64": Format("awq", group=64),
    "w4a16": Format("packed", symmetric=True),
    "w4a16-zeros": Format("packed"),
    "w4a16-act-order": Format("packed", act_order=True, symmetric=True),
    "w4a16-channel": Format("packed", group=None, symmetric=True),
    "w8a16": Format("packed", bits=8, group=None, symmetric=True),
    "w8a16-groups-zeros": Format("packed", bits=8),
    "int8": Format("int8", bits=8, group=None, symmetric=True),
    "int8-zeros": Format("int8", bits=8, group=None),
}


def products(folder: Path, names: list[str]) -> dict[str, torch.Tensor]:
    """Weights of the first layer as its projections compute with them."""
    layer = load_model(folder, CPU, torch.float32).weights.layers[0]
    found = {}
    for name in names:
        projection = getattr(layer, name)
        assert isinstance(projection, IntegerLinear)
        size = {"qkv": 64, "output": 64, "gate_up": 64, "down": 112}[name]
        bare = IntegerLinear(parts=projection.parts, bias=None, order=projection.order)
        found[name] = bare(torch.eye(size)).T
    return found


@pytest.mark.parametrize("name", FORMATS)
def test_a_projection_is_what_its_integers_stand_for(name: str, copy_of: CopyOf) -> None:
    folder = copy_of("llama-biases")
    full = store(folder, FORMATS[name])
    layer = "model.layers.0."
    expected = {
        "qkv": torch.cat([full[f"{layer}self_attn.{each}_proj.weight"] for each in "qkv"]),
        "down": full[f"{layer}mlp.down_proj.weight"],
    }
    for projection, weight in products(folder, list(expected)).items():
        torch.testing.assert_close(weight, expected[projection], rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMATS)
def test_logits_are_those_of_transformers_with_these_weights(name: str, copy_of: CopyOf) -> None:
    folder = copy_of("qwen2")
    original = copy_of("qwen2")
    full = store(folder, FORMATS[name])
    reference = reference_model(original, lambda weight, _: full[weight])
    loaded = load(folder, dtype=torch.float32, numerics="invariant")
    for length in (1, 40):
        with torch.inference_mode():
            logits = reference(torch.tensor([prompt(length)])).logits[0, -1]
        expected = logits.log_softmax(-1)
        difference = (logprobs(loaded, length) - expected).norm()
        assert difference < 1e-3 * (expected - expected.mean()).norm()


@pytest.mark.parametrize("name", ["gptq", "awq", "w4a16", "w8a16", "int8-zeros"])
def test_memory_is_counted_before_it_is_taken(name: str, copy_of: CopyOf) -> None:
    folder = copy_of("llama")
    full_bytes = weight_bytes(ModelShard(whole=read_spec(folder)), "cpu", "bfloat16")
    store(folder, FORMATS[name])
    model = load_model(folder, CPU, torch.bfloat16)
    taken = sum(
        getattr(layer, each).num_bytes
        for layer in model.weights.layers
        for each in ("qkv", "output", "gate_up", "down")
    )
    counted = weight_bytes(ModelShard(whole=model.spec), "cpu", "bfloat16")
    assert taken < counted < full_bytes


@pytest.mark.parametrize("name", ["gptq", "w8a16", "int8-zeros"])
def test_ranks_have_their_shares(name: str, copy_of: CopyOf) -> None:
    folder = copy_of("llama", {"intermediate_size": 128})
    tensors = load_file(folder / "model.safetensors")
    for key, tensor in tensors.items():
        if "mlp" in key:
            wide = torch.randn(128, 64) if "down" not in key else torch.randn(64, 128)
            tensors[key] = wide.to(tensor.dtype)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    full = store(folder, FORMATS[name])["model.layers.1.mlp.down_proj.weight"]
    files = WeightFiles(folder)
    for rank in range(2):
        shard = ModelShard(whole=read_spec(folder), rank=rank, size=2)
        layer = load_weights(files, shard, device=CPU, dtype=torch.float32).layers[1]
        assert isinstance(layer, DenseLayerWeights)
        share = full[:, 64 * rank : 64 * rank + 64]
        torch.testing.assert_close(layer.down(torch.eye(64)).T, share, rtol=1e-5, atol=1e-5)


def test_ranks_that_would_cut_a_group_are_refused(copy_of: CopyOf) -> None:
    folder = copy_of("llama")
    store(folder, FORMATS["gptq"])
    shard = ModelShard(whole=read_spec(folder), rank=1, size=2)
    with pytest.raises(UnsupportedModel, match=r"down_proj: inputs 56 to 112 .* use fewer ranks"):
        load_weights(WeightFiles(folder), shard, device=CPU, dtype=torch.float32)


REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("gptq", {"bits": 3}, r"bits: got 3, supported is 4 or 8"),
    ("gptq", {"bits": "4"}, r"bits: expected an integer"),
    ("gptq", {"group_size": 16}, r"group_size: got 16, expected -1 or a multiple of 32"),
    ("gptq", {"group_size": 0}, r"group_size: got 0, expected -1"),
    ("gptq", {"checkpoint_format": "marlin"}, r"checkpoint_format: got 'marlin'"),
    ("gptq", {"lm_head": True}, r"lm_head: got True, supported is False"),
    ("gptq", {"dynamic": {"-:.*down.*": {}}}, r"dynamic: is set"),
    ("gptq", {"pack_dtype": "int16"}, r"pack_dtype: got 'int16'"),
    ("awq", {"backend": "llm-awq"}, r"backend: got 'llm-awq'"),
    ("gptq", {"modules_in_block_to_quantize": [["self_attn.q_proj"]]}, r"all projections"),
    ("awq", {"bits": 8}, r"bits: got 8, supported is 4"),
    ("awq", {"version": "gemv"}, r"version: got 'gemv', supported is 'gemm'"),
    ("awq", {"zero_point": False}, r"zero_point: got False"),
    ("awq", {"modules_to_not_convert": ["model.layers.0"]}, r"modules_to_not_convert: got"),
    ("w4a16", {"weights.num_bits": 2}, r"num_bits: got 2, supported is 4 or 8"),
    ("w4a16", {"weights.type": "float"}, r"type: got 'float', supported is 'int'"),
    ("w4a16", {"weights.strategy": "tensor"}, r"strategy: got 'tensor'"),
    ("w4a16", {"weights.group_size": 48}, r"group_size: got 48"),
    ("w4a16", {"ignore": ["lm_head", "model.layers.0.mlp.down_proj"]}, r"ignore: got"),
    ("w4a16", {"kv_cache_scheme": {"num_bits": 8}}, r"kv_cache_scheme: is set"),
    ("w4a16", {"sparsity_config": {"format": "sparse-24-bitmask"}}, r"format: got 'sparse"),
    ("int8", {"group.input_activations": {"num_bits": 8, "dynamic": False}}, r"dynamic: got False"),
    ("int8", {"weights.num_bits": 4}, r"num_bits: got 4, supported is 8"),
]


@pytest.mark.parametrize(("name", "changes", "message"), REFUSED)
def test_what_is_not_wholly_supported_is_refused_by_its_key(
    name: str, changes: dict[str, Any], message: str, copy_of: CopyOf
) -> None:
    folder = copy_of("llama")
    store(folder, FORMATS[name])
    _change_config(folder, changes)
    with pytest.raises(CheckpointError, match=message):
        read_spec(folder)


def _change_config(folder: Path, changes: dict[str, Any]) -> None:
    config = json.loads((folder / "config.json").read_text())
    for key, value in changes.items():
        target = config["quantization_config"]
        *path, last = key.replace("weights.", "group.weights.").split(".")
        for step in path:
            target = target["config_groups"]["group_0"] if step == "group" else target[step]
        target[last] = value
    (folder / "config.json").write_text(json.dumps(config))


def _drop(folder: Path, suffix: str) -> None:
    tensors = load_file(folder / "model.safetensors")
    kept = {name: tensor for name, tensor in tensors.items() if not name.endswith(suffix)}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("name", "dropped"),
    [
        ("gptq-act-order", "layers.2.mlp.down_proj.g_idx"),
        ("gptq", "layers.2.mlp.down_proj.qzeros"),
        ("awq", "layers.2.mlp.down_proj.scales"),
        ("w4a16-act-order", "layers.2.mlp.down_proj.weight_g_idx"),
        ("w4a16-zeros", "layers.2.mlp.down_proj.weight_zero_point"),
    ],
)
def test_a_missing_tensor_is_named(name: str, dropped: str, copy_of: CopyOf) -> None:
    folder = copy_of("llama")
    store(folder, FORMATS[name])
    _drop(folder, dropped)
    with pytest.raises(CheckpointError, match=f"tensor model.{dropped} is missing"):
        load_model(folder, CPU)


def test_an_order_that_fills_groups_unevenly_is_refused(copy_of: CopyOf) -> None:
    folder = copy_of("llama")
    store(folder, FORMATS["gptq-act-order"])
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.1.mlp.down_proj.g_idx"][:] = 1
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"down_proj.g_idx: does not put 32 inputs into each"):
        load_model(folder, CPU)


def test_unlike_orders_of_the_same_inputs_are_refused(copy_of: CopyOf) -> None:
    folder = copy_of("llama")
    store(folder, FORMATS["gptq-act-order"])
    tensors = load_file(folder / "model.safetensors")
    order = tensors["model.layers.1.self_attn.k_proj.g_idx"]
    tensors["model.layers.1.self_attn.k_proj.g_idx"] = order.flip(0)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UnsupportedModel, match="have groups of unlike orders"):
        load_model(folder, CPU)


def test_quantization_leaves_what_is_stored_as_it_is(copy_of: CopyOf) -> None:
    folder = copy_of("llama")
    store(folder, FORMATS["awq"])
    assert load(folder, "int8").fingerprint == load(folder).fingerprint

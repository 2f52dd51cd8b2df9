"""What config.json may say, and how a checkpoint that cannot be served is refused."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from lengthwise_engine.errors import CheckpointError, UnsupportedModel
from lengthwise_engine.fingerprint import model_fingerprint
from lengthwise_engine.hub import resolve_checkpoint
from lengthwise_engine.models.generation import GenerationDefaults, read_generation_defaults
from lengthwise_engine.models.loading import load_model, read_spec
from lengthwise_engine.models.spec import DecoderSpec

MakeCheckpoint = Callable[..., Path]
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
CPU = torch.device("cpu")


@pytest.fixture
def copy_of(tmp_path: Path, make_checkpoint: MakeCheckpoint) -> Callable[[str], Path]:
    """A checkpoint of a variant that a test may damage."""

    def copy(variant: str) -> Path:
        return Path(shutil.copytree(make_checkpoint(variant), tmp_path / variant))

    return copy


def _edit(folder: Path, changes: dict[str, Any], *, drop: tuple[str, ...] = ()) -> Path:
    path = folder / "config.json"
    config = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: config[key] for key in config if key not in drop}))
    return folder


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


OLD_SPELLINGS: dict[str, tuple[str, dict[str, Any]]] = {
    "default": ("qwen2", {"rope_theta": 1e6}),
    "null-scaling": ("qwen2", {"rope_theta": 1000000, "rope_scaling": None}),
    "linear-type": (
        "llama-linear",
        {"rope_theta": 5000.0, "rope_scaling": {"type": "linear", "factor": 4.0}},
    ),
    "llama3-rope-type": (
        "llama-3.1",
        {
            "rope_theta": 500000.0,
            "rope_scaling": {
                "rope_type": "llama3",
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 128,
            },
        },
    ),
    "yarn-with-length-outside": (
        "llama-yarn",
        {
            "rope_theta": 10000.0,
            "rope_scaling": {"type": "yarn", "factor": 8},
            "original_max_position_embeddings": 128,
        },
    ),
}


@pytest.mark.parametrize(("variant", "spelling"), OLD_SPELLINGS.values(), ids=OLD_SPELLINGS)
def test_old_and_new_spellings_give_the_same_spec(
    variant: str, spelling: dict[str, Any], copy_of: Callable[[str], Path]
) -> None:
    folder = copy_of(variant)
    new = read_spec(folder)
    drop = ("rope_parameters", "dtype")
    old = read_spec(_edit(folder, spelling | {"torch_dtype": "bfloat16"}, drop=drop))
    assert old == replace(new, dtype="bfloat16")


def test_a_spec_says_what_config_and_generation_config_say(
    copy_of: Callable[[str], Path],
) -> None:
    folder = copy_of("qwen2-some-windows")
    spec = read_spec(folder)
    assert (spec.vocab_size, spec.context_length, spec.num_layers) == (320, 1024, 3)
    assert (spec.num_heads, spec.num_kv_heads, spec.head_dim) == (4, 2, 16)
    assert spec.windows == (None, None, 50)
    assert spec.tied_embeddings
    assert (spec.qkv_bias, spec.output_bias, spec.mlp_bias, spec.qk_norm) == (1, 0, 0, 0)
    (folder / "generation_config.json").write_text('{"eos_token_id": [5, 6]}')
    assert read_spec(folder).eos_token_ids == (5, 6)
    (folder / "generation_config.json").unlink()
    assert read_spec(folder).eos_token_ids == (257,)


def test_yarn_stretches_a_context_that_the_config_left_at_its_trained_length(
    copy_of: Callable[[str], Path],
) -> None:
    folder = _edit(
        copy_of("qwen2"),
        {"rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024}},
    )
    assert read_spec(folder).context_length == 4096


@pytest.mark.parametrize(
    ("config", "window"), [({}, 4096), ({"sliding_window": None}, None), ({"sliding_window": 9}, 9)]
)
def test_mistral_slides_unless_its_config_says_null(
    config: dict[str, Any], window: int | None, copy_of: Callable[[str], Path]
) -> None:
    folder = _edit(copy_of("mistral"), {}, drop=("sliding_window",))
    assert read_spec(_edit(folder, config)).windows == (window,) * 3


def test_a_sharded_checkpoint_holds_the_same_model(copy_of: Callable[[str], Path]) -> None:
    folder = copy_of("qwen3-biases-layer-types")
    single = load_model(folder, CPU).weights
    _shard(folder, 3)
    sharded = load_model(folder, CPU).weights
    assert torch.equal(single.embedding, sharded.embedding)
    for one, other in zip(single.layers, sharded.layers, strict=True):
        assert torch.equal(one.qkv.weight, other.qkv.weight)
        assert one.qkv.bias is not None
        assert other.qkv.bias is not None
        assert torch.equal(one.qkv.bias, other.qkv.bias)
        assert torch.equal(one.down.weight, other.down.weight)


def test_a_cpu_computes_in_float32_whatever_the_checkpoint_stores(
    copy_of: Callable[[str], Path],
) -> None:
    folder = _edit(copy_of("llama-gqa-tied"), {"dtype": "bfloat16"})
    tensors = {name: tensor.bfloat16() for name, tensor in load_file(folder / WEIGHTS).items()}
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    model = load_model(folder, CPU)
    assert (model.spec.dtype, model.dtype) == ("bfloat16", torch.float32)
    stored = tensors["model.layers.1.mlp.down_proj.weight"]
    assert torch.equal(model.weights.layers[1].down.weight, stored.float())
    assert model.weights.head is model.weights.embedding
    assert load_model(folder, CPU, torch.float16).dtype == torch.float16


def test_a_stored_head_wins_over_a_config_that_says_it_is_tied(
    copy_of: Callable[[str], Path],
) -> None:
    folder = _edit(copy_of("llama"), {"tie_word_embeddings": True})
    weights = load_model(folder, CPU).weights
    assert torch.equal(weights.head, load_file(folder / WEIGHTS)["lm_head.weight"])


BAD_CONFIGS: dict[str, tuple[dict[str, Any], type[CheckpointError], str]] = {
    "unknown-family": ({"model_type": "gpt2"}, UnsupportedModel, r"'gpt2'.*llama, mistral, qwen2"),
    "no-family": ({"model_type": None}, CheckpointError, "model_type: missing"),
    "not-causal": (
        {"architectures": ["LlamaForSequenceClassification"]},
        UnsupportedModel,
        r"LlamaForSequenceClassification.*ForCausalLM",
    ),
    "quantised": (
        {"quantization_config": {"quant_method": "awq", "bits": 4}},
        UnsupportedModel,
        "quantised with 'awq'",
    ),
    "other-activation": ({"hidden_act": "gelu"}, UnsupportedModel, "hidden_act: 'gelu'"),
    "float8": ({"dtype": "float8_e4m3fn"}, UnsupportedModel, "dtype: 'float8_e4m3fn'"),
    "other-rope": (
        {"rope_scaling": {"type": "dynamic", "factor": 2.0}},
        UnsupportedModel,
        r"rope_scaling.rope_type: type 'dynamic'.*linear, llama3, yarn",
    ),
    "partial-rope": (
        {"partial_rotary_factor": 0.5},
        UnsupportedModel,
        "partial_rotary_factor: only 1.0",
    ),
    "rope-without-factor": (
        {"rope_scaling": {"type": "linear"}},
        CheckpointError,
        "rope_scaling.factor: missing",
    ),
    "rope-not-an-object": (
        {"rope_scaling": [1]},
        CheckpointError,
        r"rope_scaling: expected an object, got \[1\]",
    ),
    "heads-do-not-divide": ({"num_key_value_heads": 3}, CheckpointError, "4 is not a multiple"),
    "odd-head": ({"head_dim": 15}, CheckpointError, "needs an even size, got 15"),
    "no-hidden-size": ({"hidden_size": None}, CheckpointError, "hidden_size: missing"),
    "text-for-number": (
        {"vocab_size": "320"},
        CheckpointError,
        "vocab_size: expected an integer >= 1, got '320'",
    ),
    "negative-layers": (
        {"num_hidden_layers": -1},
        CheckpointError,
        "num_hidden_layers: expected an integer >= 1, got -1",
    ),
    "text-for-boolean": (
        {"tie_word_embeddings": "yes"},
        CheckpointError,
        "tie_word_embeddings: expected true or false, got 'yes'",
    ),
}


@pytest.mark.parametrize(("changes", "kind", "message"), BAD_CONFIGS.values(), ids=BAD_CONFIGS)
def test_a_config_that_cannot_be_served_is_refused_by_key(
    changes: dict[str, Any],
    kind: type[CheckpointError],
    message: str,
    copy_of: Callable[[str], Path],
) -> None:
    folder = _edit(copy_of("llama"), changes, drop=("rope_parameters", "head_dim"))
    _edit(folder, changes)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_model(folder, CPU)
    assert type(caught.value) is kind
    assert str(folder / "config.json") in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layer_types": ["full_attention"]}, "one entry for each of 3 layers, got 1"),
        ({"layer_types": ["full_attention", "mamba", "mamba"]}, r"\['mamba'\]: only full_att"),
        ({"layer_types": ["sliding_attention"] * 3}, "use_sliding_window is false"),
    ],
    ids=["too-few", "unknown", "without-window"],
)
def test_impossible_layer_types_are_refused(
    changes: dict[str, Any], message: str, copy_of: Callable[[str], Path]
) -> None:
    with pytest.raises(CheckpointError, match=message):
        read_spec(_edit(copy_of("qwen3"), changes))


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
    "no-config": (lambda folder: (folder / "config.json").unlink(), "config.json: not found"),
    "config-not-json": (
        lambda folder: (folder / "config.json").write_text("{"),
        "config.json: not valid JSON",
    ),
    "config-not-an-object": (
        lambda folder: (folder / "config.json").write_text("[]"),
        "config.json: expected a JSON object, got list",
    ),
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
    damage: Callable[[Path], object], message: str, copy_of: Callable[[str], Path]
) -> None:
    folder = copy_of("llama")
    damage(folder)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_model(folder, CPU)
    assert str(folder) in str(caught.value)


def test_stored_rotary_frequencies_are_ignored(copy_of: Callable[[str], Path]) -> None:
    folder = copy_of("llama")
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"
    _rewrite(folder, lambda tensors: tensors.update({name: torch.ones(8)}))
    assert isinstance(load_model(folder, CPU).spec, DecoderSpec)


def test_generation_defaults_are_what_the_makers_wrote(tmp_path: Path) -> None:
    assert read_generation_defaults(tmp_path) == GenerationDefaults()
    path = tmp_path / "generation_config.json"
    path.write_text(
        json.dumps(
            {"do_sample": True, "temperature": 0.6, "top_k": 20, "top_p": 0.95, "eos_token_id": 7}
        )
    )
    assert read_generation_defaults(tmp_path) == GenerationDefaults(
        eos_token_ids=(7,), temperature=0.6, top_k=20, top_p=0.95
    )
    path.write_text('{"do_sample": false, "temperature": 0.6}')
    assert read_generation_defaults(tmp_path).temperature == 0.0


def test_a_fingerprint_is_of_the_contents_alone(
    copy_of: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = copy_of("llama")
    fingerprint = model_fingerprint(folder)
    assert len(fingerprint) == 16
    assert model_fingerprint(Path(shutil.copytree(folder, tmp_path / "copy"))) == fingerprint
    _rewrite(folder, lambda tensors: tensors[NORM].mul_(2))
    assert model_fingerprint(folder) != fingerprint
    _edit(tmp_path / "copy", {"rms_norm_eps": 1e-4})
    assert model_fingerprint(tmp_path / "copy") != fingerprint


def test_a_folder_is_its_own_checkpoint_and_other_names_need_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert resolve_checkpoint(str(tmp_path)) == tmp_path
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for name in ("nobody/nothing", "not a repository", "/no/such/folder"):
        with pytest.raises(CheckpointError, match=f"{name}: neither a folder nor a repository"):
            resolve_checkpoint(name)

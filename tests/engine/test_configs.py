"""What config.json and generation_config.json may say, and what is refused."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lengthwise_engine.errors import CheckpointError, UnsupportedModel
from lengthwise_engine.models.build import read_spec
from lengthwise_engine.models.generation import GenerationDefaults, read_generation_defaults

CopyOf = Callable[..., Path]

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
    variant: str, spelling: dict[str, Any], copy_of: CopyOf
) -> None:
    changes = spelling | {"torch_dtype": "bfloat16", "rope_parameters": None, "dtype": None}
    old, new = read_spec(copy_of(variant, changes)), read_spec(copy_of(variant))
    assert old == replace(new, dtype="bfloat16")


def test_a_spec_says_what_config_and_generation_config_say(
    copy_of: CopyOf,
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


@pytest.mark.parametrize(
    ("changes", "windows"),
    [
        ({"max_window_layers": 1}, (None, 9, 9)),
        ({"max_window_layers": 0}, (9, 9, 9)),
        ({}, (None, None, None)),
        ({"max_window_layers": 1, "use_sliding_window": False}, (None, None, None)),
    ],
)
def test_qwen_slides_from_max_window_layers_on(
    changes: dict[str, Any], windows: tuple[int | None, ...], copy_of: CopyOf
) -> None:
    sliding = {"use_sliding_window": True, "sliding_window": 9}
    drop = ("layer_types", "max_window_layers")
    assert read_spec(copy_of("qwen2", sliding | changes, drop=drop)).windows == windows


def test_yarn_stretches_a_context_that_the_config_left_at_its_trained_length(
    copy_of: CopyOf,
) -> None:
    scaling = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024}
    assert read_spec(copy_of("qwen2", {"rope_scaling": scaling})).context_length == 4096


@pytest.mark.parametrize(
    ("config", "window"), [({}, 4096), ({"sliding_window": None}, None), ({"sliding_window": 9}, 9)]
)
def test_mistral_slides_unless_its_config_says_null(
    config: dict[str, Any], window: int | None, copy_of: CopyOf
) -> None:
    folder = copy_of("mistral", config, drop=("sliding_window",))
    assert read_spec(folder).windows == (window,) * 3


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
        "found quant_method 'awq'; supported is 'compressed-tensors'",
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
    copy_of: CopyOf,
) -> None:
    folder = copy_of("llama", {"rope_parameters": None, "head_dim": None} | changes)
    with pytest.raises(CheckpointError, match=message) as caught:
        read_spec(folder)
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
    changes: dict[str, Any], message: str, copy_of: CopyOf
) -> None:
    with pytest.raises(CheckpointError, match=message):
        read_spec(copy_of("qwen3", changes))


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

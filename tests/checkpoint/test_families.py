"""What config.json may say, and what is refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from harness.checkpoints import CHECKPOINT_VARIANTS
from transformers import AutoConfig

from lengthwise_checkpoint.architectures import read_limits
from lengthwise_checkpoint.errors import CheckpointError, UnsupportedModel
from lengthwise_checkpoint.families import read_config, read_decoder_spec
from lengthwise_checkpoint.spec import DecoderSpec

ConfigOf = Callable[..., Path]


def _read(folder: Path) -> DecoderSpec:
    return read_decoder_spec(read_config(folder))


@pytest.mark.parametrize("variant", CHECKPOINT_VARIANTS)
def test_a_spec_is_what_transformers_reads(variant: str, config_of: ConfigOf) -> None:
    folder = config_of(variant)
    spec, theirs = _read(folder), AutoConfig.from_pretrained(folder)
    assert (spec.vocab_size, spec.num_layers) == (theirs.vocab_size, theirs.num_hidden_layers)
    assert (spec.hidden_size, spec.intermediate_size) == (
        theirs.hidden_size,
        theirs.intermediate_size,
    )
    assert (spec.num_heads, spec.num_kv_heads) == (
        theirs.num_attention_heads,
        theirs.num_key_value_heads,
    )
    head_dim = getattr(theirs, "head_dim", None)
    assert spec.head_dim == (head_dim or theirs.hidden_size // theirs.num_attention_heads)
    assert spec.tied_embeddings == theirs.tie_word_embeddings
    assert spec.norm_eps == theirs.rms_norm_eps
    assert spec.rope.theta == theirs.rope_parameters["rope_theta"]


def _nest(folder: Path, **outer: Any) -> Path:
    """Puts what config.json says into a text_config, but for the type."""
    path = folder / "config.json"
    inner = json.loads(path.read_text())
    dtype = inner.pop("dtype", "bfloat16")
    inner.pop("architectures", None)
    outer = {"model_type": "wrapper", "dtype": dtype, "text_config": inner, **outer}
    path.write_text(json.dumps(outer))
    return folder


def test_a_nested_text_model_is_read_as_if_it_stood_alone(config_of: ConfigOf) -> None:
    changes = {"dtype": "bfloat16"}
    plain = config_of("qwen2-some-windows", changes)
    assert _read(_nest(config_of("qwen2-some-windows", changes))) == _read(plain)


def test_a_nested_text_model_is_refused_by_its_own_keys(config_of: ConfigOf) -> None:
    with pytest.raises(CheckpointError, match=r"config.json: text_config.vocab_size: expected"):
        _read(_nest(config_of("llama", {"vocab_size": "x"})))
    names = ["WrapperForConditionalGeneration"]
    with pytest.raises(UnsupportedModel, match=r"WrapperForConditionalGeneration.*ForCausalLM"):
        _read(_nest(config_of("llama"), architectures=names))
    with pytest.raises(UnsupportedModel, match=r"text_config.model_type: 'gpt2' is not supported"):
        _read(_nest(config_of("llama", {"model_type": "gpt2"})))


def test_the_toy_is_a_model_too(toy_folder: Path) -> None:
    limits = read_limits(read_config(toy_folder))
    assert (limits.context_length, limits.vocab_size) == (512, 260)


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
    changes: dict[str, Any], windows: tuple[int | None, ...], config_of: ConfigOf
) -> None:
    sliding = {"use_sliding_window": True, "sliding_window": 9}
    drop = ("layer_types", "max_window_layers")
    assert _read(config_of("qwen2", sliding | changes, drop=drop)).windows == windows


@pytest.mark.parametrize(
    ("config", "window"), [({}, 4096), ({"sliding_window": None}, None), ({"sliding_window": 9}, 9)]
)
def test_mistral_slides_unless_its_config_says_null(
    config: dict[str, Any], window: int | None, config_of: ConfigOf
) -> None:
    folder = config_of("mistral", config, drop=("sliding_window",))
    assert _read(folder).windows == (window,) * 3


BAD_CONFIGS: dict[str, tuple[dict[str, Any], type[CheckpointError], str]] = {
    "unknown-family": ({"model_type": "gpt2"}, UnsupportedModel, r"'gpt2'.*llama, mistral, qwen2"),
    "no-family": ({"model_type": None}, CheckpointError, "model_type: missing"),
    "not-causal": (
        {"architectures": ["LlamaForSequenceClassification"]},
        UnsupportedModel,
        r"LlamaForSequenceClassification.*ForCausalLM",
    ),
    "quantised": (
        {"quantization_config": {"quant_method": "hqq", "bits": 4}},
        UnsupportedModel,
        "found quant_method 'hqq'; supported is 'compressed-tensors'",
    ),
    "other-activation": ({"hidden_act": "gelu"}, UnsupportedModel, "hidden_act: 'gelu'"),
    "float8": ({"dtype": "float8_e4m3fn"}, UnsupportedModel, "dtype: 'float8_e4m3fn'"),
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
    "too-many-layers": (
        {"num_hidden_layers": 10**9},
        CheckpointError,
        "num_hidden_layers: expected an integer <= 4096, got 1000000000",
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
    config_of: ConfigOf,
) -> None:
    folder = config_of("llama", {"rope_parameters": None, "head_dim": None} | changes)
    with pytest.raises(CheckpointError, match=message) as caught:
        _read(folder)
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
    changes: dict[str, Any], message: str, config_of: ConfigOf
) -> None:
    with pytest.raises(CheckpointError, match=message):
        _read(config_of("qwen3", changes))

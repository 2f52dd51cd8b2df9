"""Scaled rotary positions: their two spellings, and the context they make."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lengthwise_checkpoint.errors import CheckpointError, UnsupportedModel
from lengthwise_checkpoint.families import read_config, read_decoder_spec
from lengthwise_checkpoint.spec import DecoderSpec

ConfigOf = Callable[..., Path]


def _read(folder: Path) -> DecoderSpec:
    return read_decoder_spec(read_config(folder))


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
    variant: str, spelling: dict[str, Any], config_of: ConfigOf
) -> None:
    changes = spelling | {"torch_dtype": "bfloat16", "rope_parameters": None, "dtype": None}
    old, new = _read(config_of(variant, changes)), _read(config_of(variant))
    assert old == replace(new, dtype="bfloat16")


@pytest.mark.parametrize(
    ("scaling", "context_length"),
    [
        ({"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024}, 4096),
        ({"type": "yarn", "factor": 4.0}, 4096),
        ({"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}, 1024),
        ({"type": "linear", "factor": 4.0}, 4096),
        ({"rope_type": "linear", "factor": 2.5}, 2560),
        ({"type": "linear", "factor": 4.0, "original_max_position_embeddings": 256}, 1024),
        (
            {
                "rope_type": "llama3",
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 128,
            },
            1024,
        ),
        ({"rope_type": "default"}, 1024),
    ],
)
def test_the_trained_length_is_stretched_by_the_factor(
    scaling: dict[str, Any], context_length: int, config_of: ConfigOf
) -> None:
    """1,024 is max_position_embeddings."""
    spec = _read(config_of("qwen2", {"rope_scaling": scaling}))
    assert spec.context_length == context_length
    renamed = {"rope_type": scaling.get("type", "default"), **scaling, "rope_theta": 10_000.0}
    assert spec == _read(config_of("qwen2", {"rope_scaling": None, "rope_parameters": renamed}))


REFUSED: dict[str, tuple[dict[str, Any], type[CheckpointError], str]] = {
    "other": (
        {"rope_scaling": {"type": "dynamic", "factor": 2.0}},
        UnsupportedModel,
        r"rope_scaling.rope_type: type 'dynamic'.*linear, llama3, yarn",
    ),
    **{
        kind: (
            {"rope_scaling": {"rope_type": kind, "factor": 2.0}},
            UnsupportedModel,
            f"rope_scaling.rope_type: type '{kind}'",
        )
        for kind in ("longrope", "su", "proportional", "mrope")
    },
    "by kind of layer": (
        {"rope_parameters": {"full_attention": {"rope_type": "linear", "factor": 4.0}}},
        UnsupportedModel,
        "rope_parameters.full_attention: rotary parameters of a kind of layer",
    ),
    "partial": (
        {"partial_rotary_factor": 0.5},
        UnsupportedModel,
        "partial_rotary_factor: only 1.0",
    ),
    "without factor": (
        {"rope_scaling": {"type": "linear"}},
        CheckpointError,
        "rope_scaling.factor: missing",
    ),
    "shrinking": (
        {"rope_scaling": {"type": "linear", "factor": 0}},
        CheckpointError,
        "rope_scaling.factor: expected a finite number >= 1, got 0",
    ),
    "endless": (
        {"rope_scaling": {"type": "linear", "factor": 1e100}},
        CheckpointError,
        "rope_scaling: stretches the context to",
    ),
    "not an object": (
        {"rope_scaling": [1]},
        CheckpointError,
        r"rope_scaling: expected an object, got \[1\]",
    ),
}


@pytest.mark.parametrize(("changes", "kind", "message"), REFUSED.values(), ids=REFUSED)
def test_other_scalings_are_refused(
    changes: dict[str, Any], kind: type[CheckpointError], message: str, config_of: ConfigOf
) -> None:
    with pytest.raises(CheckpointError, match=message) as caught:
        _read(config_of("llama", {"rope_parameters": None} | changes))
    assert type(caught.value) is kind

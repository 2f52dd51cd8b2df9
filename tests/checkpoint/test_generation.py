"""generation_config.json: what ends a text, and how its makers sample."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import GenerationConfig

from lengthwise_checkpoint.errors import CheckpointError
from lengthwise_checkpoint.families import read_config
from lengthwise_checkpoint.generation import GenerationDefaults, read_generation_defaults
from lengthwise_policy.sampling import SamplingParameters


def _read(folder: Path, generation: dict[str, Any] | None) -> GenerationDefaults:
    path = folder / "generation_config.json"
    path.unlink(missing_ok=True)
    if generation is not None:
        path.write_text(json.dumps(generation))
    return read_generation_defaults(folder, read_config(folder))


@pytest.mark.parametrize(
    ("generation", "expected"),
    [
        pytest.param({"eos_token_id": 3}, (3,), id="one"),
        pytest.param({"eos_token_id": [3, 4]}, (3, 4), id="several"),
        pytest.param({"eos_token_id": None}, (257,), id="null"),
        pytest.param({}, (257,), id="not said"),
        pytest.param(None, (257,), id="no file"),
    ],
)
def test_ends_are_those_of_the_generation_config_else_of_config_json(
    toy_folder: Path, generation: dict[str, Any] | None, expected: tuple[int, ...]
) -> None:
    assert _read(toy_folder, generation).eos_token_ids == expected


@pytest.mark.parametrize(
    ("generation", "expected"),
    [
        pytest.param(None, SamplingParameters(), id="no file"),
        pytest.param({}, SamplingParameters(), id="nothing said"),
        pytest.param(
            {"temperature": 0.6, "top_p": 0.9, "top_k": 20, "min_p": 0.1},
            SamplingParameters(temperature=0.6, top_p=0.9, top_k=20, min_p=0.1),
            id="as recommended",
        ),
        pytest.param(
            {"do_sample": False, "temperature": 0.6}, SamplingParameters(temperature=0), id="greedy"
        ),
        pytest.param(
            {"do_sample": None, "temperature": None, "repetition_penalty": 1.1},
            SamplingParameters(repetition_penalty=1.1),
            id="null is nothing",
        ),
        pytest.param({"temperature": 1, "top_p": 1}, SamplingParameters(), id="whole numbers"),
        pytest.param({"top_k": -1}, SamplingParameters(), id="top_k -1 is all"),
        pytest.param({"top_k": 0}, SamplingParameters(), id="top_k 0 is all"),
        pytest.param({"top_p": 0}, SamplingParameters(temperature=0), id="top_p 0 is greedy"),
    ],
)
def test_defaults_are_the_makers_recommendation(
    toy_folder: Path, generation: dict[str, Any] | None, expected: SamplingParameters
) -> None:
    assert _read(toy_folder, generation).sampling == expected


def test_values_are_those_that_transformers_reads(toy_folder: Path) -> None:
    make: Callable[..., Any] = GenerationConfig
    written = make(
        do_sample=True, temperature=0.7, top_k=20, top_p=0.8, repetition_penalty=1.05,
        eos_token_id=[5, 6],
    )  # fmt: skip
    written.save_pretrained(toy_folder)
    theirs = GenerationConfig.from_pretrained(toy_folder)
    ours = read_generation_defaults(toy_folder, read_config(toy_folder))
    assert list(ours.eos_token_ids) == theirs.eos_token_id
    for name in ("temperature", "top_k", "top_p", "repetition_penalty"):
        assert getattr(ours.sampling, name) == getattr(theirs, name), name


AS_SHIPPED: dict[str, dict[str, Any]] = {
    "llama 2": {"do_sample": True, "temperature": 0.6, "top_p": 0.9, "bos_token_id": 1},
    "llama 3": {"do_sample": True, "temperature": 0.6, "top_p": 0.9, "eos_token_id": [3, 4]},
    "qwen": {"repetition_penalty": 1.1, "temperature": 0.7, "top_p": 0.8, "top_k": 20},
    "greedy": {"do_sample": False, "top_k": 50},
    "temperature alone": {"temperature": 0.3},
    "min_p": {"do_sample": True, "min_p": 0.05},
    "whole numbers": {"do_sample": True, "temperature": 1, "top_p": 1, "repetition_penalty": 1},
    "nulls": dict.fromkeys(("do_sample", "temperature", "top_k", "top_p", "eos_token_id")),
    "much else": {"max_length": 4096, "num_beams": 1, "pad_token_id": 0, "use_cache": True},
    "one end": {"eos_token_id": 5},
    "ends twice": {"eos_token_id": [5, 5]},
    "no end": {"eos_token_id": []},
}


@pytest.mark.parametrize("generation", AS_SHIPPED.values(), ids=AS_SHIPPED)
def test_files_as_people_ship_them_are_read_as_transformers_reads_them(
    toy_folder: Path, generation: dict[str, Any]
) -> None:
    """What it leaves open is neutral here."""
    ours = _read(toy_folder, generation)
    theirs = GenerationConfig.from_pretrained(toy_folder)
    neutral = SamplingParameters()
    for name in ("top_k", "top_p", "min_p", "repetition_penalty"):
        stated = getattr(theirs, name)
        expected = getattr(neutral, name) if stated is None else stated
        assert getattr(ours.sampling, name) == expected, name
    temperature = 1.0 if theirs.temperature is None else theirs.temperature
    assert ours.sampling.temperature == (0.0 if theirs.do_sample is False else temperature)
    ends = theirs.eos_token_id
    stated_ends = ends if isinstance(ends, list) else [end for end in (ends,) if end is not None]
    assert list(ours.eos_token_ids) == (stated_ends or [257])


@pytest.mark.parametrize(
    ("generation", "message"),
    [
        ('{"top_p": "x"}', "top_p: expected a finite number >= 0 and <= 1, got 'x'"),
        ('{"top_p": 1.5}', "top_p: expected a finite number >= 0 and <= 1, got 1.5"),
        ('{"temperature": NaN}', "temperature: expected a finite number >= 0, got nan"),
        ('{"temperature": -1}', "temperature: expected a finite number >= 0, got -1"),
        ('{"top_k": 1.5}', "top_k: expected an integer >= -1, got 1.5"),
        ('{"top_k": true}', "top_k: expected an integer >= -1, got True"),
        ('{"repetition_penalty": 0}', "repetition_penalty: expected a finite number >= 1e-06"),
        ('{"do_sample": "no"}', "do_sample: expected true or false, got 'no'"),
        ('{"eos_token_id": [true]}', "eos_token_id: expected an integer >= 0 or a list of them"),
    ],
)
def test_values_that_cannot_be_meant_are_refused(
    toy_folder: Path, generation: str, message: str
) -> None:
    (toy_folder / "generation_config.json").write_text(generation)
    with pytest.raises(CheckpointError, match=f"generation_config.json: {message}"):
        read_generation_defaults(toy_folder, read_config(toy_folder))

"""adapter_config.json of PEFT: what is read, and the one line that refuses the rest."""

import json
from pathlib import Path
from typing import Any

import pytest

from lengthwise_checkpoint.adapters.adapter_config import AdapterSpec, read_adapter_spec
from lengthwise_checkpoint.errors import CheckpointError, UnsupportedModel


def _adapter(folder: Path, *, weights: str = "adapter_model.safetensors", **config: Any) -> Path:
    settings = {"peft_type": "LORA", "r": 16, "lora_alpha": 32, "bias": "none", **config}
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    (folder / weights).touch()
    return folder


def test_rank_and_scaling_are_read(tmp_path: Path) -> None:
    assert read_adapter_spec(_adapter(tmp_path)) == AdapterSpec(rank=16, scaling=2.0)
    stable = read_adapter_spec(_adapter(tmp_path, use_rslora=True))
    assert stable == AdapterSpec(rank=16, scaling=8.0)


def test_what_peft_writes_by_default_is_accepted(tmp_path: Path) -> None:
    defaults: dict[str, Any] = {
        "alpha_pattern": {},
        "rank_pattern": {},
        "modules_to_save": None,
        "use_dora": False,
        "init_lora_weights": True,
        "layers_to_transform": None,
        "target_modules": ["q_proj", "v_proj"],
        "megatron_core": "megatron.core",
        "loftq_config": {},
        "eva_config": None,
        "peft_version": "0.20.0",
    }
    assert read_adapter_spec(_adapter(tmp_path, **defaults)).rank == 16


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"use_dora": True}, "use_dora: got True, expected none: plain LoRA alone"),
        ({"bias": "all"}, "bias: got 'all', expected none"),
        ({"lora_bias": True}, "lora_bias: got True, expected none"),
        ({"modules_to_save": ["lm_head"]}, r"modules_to_save: got \['lm_head'\], expected none"),
        ({"rank_pattern": {"q_proj": 4}}, "rank_pattern: got {'q_proj': 4}, expected none"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out: got True, expected none"),
        ({"target_parameters": ["experts.w"]}, "target_parameters: got .* expected none"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights: got pissa, which changes the base"),
        ({"peft_type": "IA3"}, "peft_type: got 'IA3', expected LORA"),
        ({"r": 512}, "r: got 512, expected at most 256"),
    ],
)
def test_what_is_not_plain_lora_is_refused_by_its_key(
    config: dict[str, Any], expected: str, tmp_path: Path
) -> None:
    with pytest.raises(UnsupportedModel, match=f"adapter_config.json: {expected}"):
        read_adapter_spec(_adapter(tmp_path, **config))


@pytest.mark.parametrize(
    ("config", "expected"),
    [({"r": 0}, "r: expected an integer >= 1"), ({"lora_alpha": "2"}, "lora_alpha: expected a")],
)
def test_damaged_values_are_named(config: dict[str, Any], expected: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=expected):
        read_adapter_spec(_adapter(tmp_path, **config))


def test_pickled_weights_are_never_read(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModel, match="pickled files run code and are not read"):
        read_adapter_spec(_adapter(tmp_path, weights="adapter_model.bin"))


def test_a_folder_without_weights_is_no_adapter(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"adapter_model\.safetensors: not found"):
        read_adapter_spec(_adapter(tmp_path, weights="readme"))
    with pytest.raises(CheckpointError, match=r"adapter_config\.json: not found"):
        read_adapter_spec(tmp_path / "none")

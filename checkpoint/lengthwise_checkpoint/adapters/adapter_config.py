"""adapter_config.json of PEFT: a plain LoRA adapter, or one line that says what is asked for more.

An adapter adds scaling * B A to a weight (arXiv:2106.09685); `scaling` is lora_alpha / r, or with
rsLoRA lora_alpha / sqrt(r) (arXiv:2312.03732).
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from lengthwise_checkpoint.config_json import ConfigJson, is_there
from lengthwise_checkpoint.errors import CheckpointError, UnsupportedModel

CONFIG: Final = "adapter_config.json"
WEIGHTS: Final = "adapter_model.safetensors"

ADAPTER_FILES: Final = (CONFIG, WEIGHTS)
"""What a worker reads."""

MAX_RANK: Final = 256

_PICKLED: Final = "adapter_model.bin"

_ABSENT: Final = (
    "use_dora",
    "use_qalora",
    "lora_bias",
    "fan_in_fan_out",
    "modules_to_save",
    "rank_pattern",
    "alpha_pattern",
    "layer_replication",
    "trainable_token_indices",
    "target_parameters",
    "alora_invocation_tokens",
    "corda_config",
    "arrow_config",
)
"""Whatever is set here changes what is computed."""

_PLAIN_BEGINNINGS: Final = (None, True, False, "gaussian", "eva", "orthogonal")
"""Of `init_lora_weights`: the others leave another base than the one that is served."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterSpec:
    """`rank` is of every A and B; their product counts `scaling` times."""

    rank: int
    scaling: float


def read_adapter_spec(folder: Path) -> AdapterSpec:
    """Raises `CheckpointError` for files that are damaged or missing, `UnsupportedModel` for
    adapters of another kind."""
    config = ConfigJson.read(folder / CONFIG)
    kind = config.text("peft_type")
    if kind != "LORA":
        raise config.unsupported("peft_type", f"got {kind!r}, expected LORA")
    for key in _ABSENT:
        if value := config.value(key):
            raise config.unsupported(key, f"got {str(value)[:80]}, expected none: plain LoRA alone")
    bias = config.text("bias", "none")
    if bias != "none":
        raise config.unsupported("bias", f"got {bias!r}, expected none")
    if (begin := config.value("init_lora_weights")) not in _PLAIN_BEGINNINGS:
        raise config.unsupported(
            "init_lora_weights",
            f"got {str(begin)[:80]}, which changes the base model too; convert the adapter with"
            " PEFT's path_initial_model_for_weight_conversion",
        )
    rank, alpha = config.integer("r"), config.number("lora_alpha")
    if rank > MAX_RANK:
        raise config.unsupported("r", f"got {rank}, expected at most {MAX_RANK}")
    _check_weights(folder)
    is_rank_stable = config.boolean("use_rslora", False)
    scaling = alpha / math.sqrt(rank) if is_rank_stable else alpha / rank
    return AdapterSpec(rank=rank, scaling=scaling)


def _check_weights(folder: Path) -> None:
    if is_there(folder / WEIGHTS):
        return
    if is_there(folder / _PICKLED):
        raise UnsupportedModel(
            f"{folder}: got {_PICKLED}, expected {WEIGHTS}: pickled files run code and are not"
            " read; save the adapter again with safe_serialization=True"
        )
    raise CheckpointError(f"{folder / WEIGHTS}: not found; expected a folder that PEFT has written")

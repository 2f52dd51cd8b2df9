"""Weights into a model of transformers, and our projections into it.

transformers streams them from the safetensors files, renames and fuses them as the architecture
wants; whatever it does not find or cannot place is an error here, where it would only warn.
"""

from pathlib import Path
from typing import Any, Final

import torch

from lengthwise_checkpoint.config_json import ConfigJson, shorten
from lengthwise_checkpoint.errors import CheckpointError
from lengthwise_engine.models.foreign.attention import NAME, paged_attention
from lengthwise_engine.models.foreign.model import ForeignModel
from lengthwise_engine.models.foreign.norm import put_norms
from lengthwise_engine.models.foreign.projection import put_projections
from lengthwise_engine.models.foreign.registry import Transformers
from lengthwise_engine.models.foreign.spec import ForeignSpec
from lengthwise_engine.models.weight_files import WeightFiles

_PROBLEMS: Final = (
    ("missing_keys", "are missing"),
    ("unexpected_keys", "are not of this architecture"),
    ("mismatched_keys", "have another shape than config.json implies"),
    ("conversion_errors", "cannot be converted"),
)
_SHOWN: Final = 3


def load_foreign(
    config: ConfigJson, spec: ForeignSpec, device: torch.device, dtype: torch.dtype
) -> ForeignModel:
    """The model of a checkpoint folder, ready to compute in `dtype`.

    Raises `CheckpointError` unless its files have every weight, and no other.
    """
    folder = config.path.parent
    library = Transformers(config)
    library.modeling.ALL_ATTENTION_FUNCTIONS.register(NAME, paged_attention)
    digest = WeightFiles(folder, hashed=True).hash_all()
    model = _read(library, folder, dtype).to(device).requires_grad_(False)
    _fix_rotations(library, model, spec.context_length)
    put_projections(model)
    put_norms(model)
    return ForeignModel(spec, model, digest, device, dtype)


def _read(library: Transformers, folder: Path, dtype: torch.dtype) -> Any:
    try:
        model, found = library.package.AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=dtype,
            attn_implementation=NAME,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # told below, with their names
        )
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # it has no tree of errors
        raise CheckpointError(f"{folder}: transformers: {shorten(str(error))}") from error
    for key, what in _PROBLEMS:
        if names := sorted(map(str, found.get(key) or ())):
            shown = ", ".join(names[:_SHOWN])
            raise CheckpointError(f"{folder}: {len(names)} tensors {what}, such as {shown}")
    return model.eval()


def _fix_rotations(library: Transformers, model: Any, context_length: int) -> None:
    """Frequencies that depend on how long a prompt is would differ within a batch, and from the
    keys that are cached: LongRoPE's become those of the model's whole context."""
    functions = library.package.modeling_rope_utils.ROPE_INIT_FUNCTIONS
    for module in model.modules():
        if getattr(module, "rope_type", None) != "longrope":
            continue
        original = module.config.rope_parameters["original_max_position_embeddings"]
        length = context_length if context_length > original else None
        frequencies, _ = functions["longrope"](
            module.config, module.inv_freq.device, seq_len=length
        )
        module.inv_freq.copy_(frequencies)
        module.rope_type = "default"

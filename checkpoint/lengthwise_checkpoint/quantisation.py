"""How a checkpoint's projections are quantised.

One scheme is supported, 8-bit floating point (e4m3) for weights and activations; embedding, norms
and head stay as they are (W8A8 of vLLM and llm-compressor).
"""

from collections.abc import Mapping
from typing import Final

from lengthwise_checkpoint.config_json import ConfigJson

_KIND: Final = {"type": "float", "num_bits": 8, "symmetric": True}
_GROUP: Final[Mapping[str, Mapping[str, object]]] = {
    "weights": {**_KIND, "strategy": "channel", "dynamic": False},
    "input_activations": {**_KIND, "strategy": "token", "dynamic": True},
}
_SUPPORTED: Final = (
    "supported is 'compressed-tensors' of format 'float-quantized' alone: 8-bit floating-point"
    " weights with a scale per channel, activations with a dynamic scale per token, of all linear"
    " layers but lm_head"
)


def stores_fp8(config: ConfigJson) -> bool:
    """Whether the projections of a checkpoint are stored as FP8, a `weight_scale` beside each.

    Raises `UnsupportedModel` for every other kind of quantised checkpoint.
    """
    if "quantization_config" not in config:
        return False
    if config.object("quantization_config").value("quant_method") == "gguf":
        return False  # it is full weights that are read of a GGUF file
    if found := _other_scheme(config.object("quantization_config")):
        raise config.unsupported("quantization_config", f"found {found}; {_SUPPORTED}")
    return True


def _other_scheme(found: ConfigJson) -> str:
    """What is not as it is in the supported scheme; empty if all is."""
    for key, expected in (("quant_method", "compressed-tensors"), ("format", "float-quantized")):
        if (value := found.text(key, "none")) != expected:
            return f"{key} {value!r}"
    groups = found.object("config_groups")
    if len(groups.keys()) != 1:
        return f"config_groups {groups.keys()}"
    group = groups.object(groups.keys()[0])
    if (targets := group.texts("targets")) != ["Linear"]:
        return f"targets {targets}"
    for side, expected_values in _GROUP.items():
        values = group.object(side)
        for key, wanted in expected_values.items():
            if (got := values.value(key)) != wanted:
                return f"{side} with {key} {got!r}"
    if (ignored := found.texts("ignore")) != ["lm_head"]:
        return f"ignore {ignored}"
    if "kv_cache_scheme" in found:
        return "a kv_cache_scheme"
    return ""

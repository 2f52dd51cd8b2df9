"""How a checkpoint's projections are quantised.

As integers (`integer_schemes`), or in 8-bit floating point (e4m3), weights and activations (W8A8 of
vLLM and llm-compressor); embedding, norms and head stay as they are.
"""

from collections.abc import Mapping
from typing import Final

from lengthwise_checkpoint.config_json import ConfigJson
from lengthwise_checkpoint.integer_schemes import IntegerScheme, read_integer_scheme
from lengthwise_checkpoint.spec import Projections

_KIND: Final = {"type": "float", "num_bits": 8, "symmetric": True}
_GROUP: Final[Mapping[str, Mapping[str, object]]] = {
    "weights": {**_KIND, "strategy": "channel", "dynamic": False},
    "input_activations": {**_KIND, "strategy": "token", "dynamic": True},
}
_SUPPORTED: Final = (
    "supported is 'compressed-tensors' of format 'float-quantized': 8-bit floating-point"
    " weights with a scale per channel, activations with a dynamic scale per token, of all linear"
    " layers but lm_head; its formats 'pack-quantized' and 'int-quantized'; 'gptq' and 'awq'"
)


def read_stored(config: ConfigJson) -> tuple[Projections, IntegerScheme | None]:
    """How the projections of a checkpoint are stored; FP8 has a `weight_scale` beside each.

    Raises `UnsupportedModel` for every other kind of quantised checkpoint.
    """
    if "quantization_config" not in config:
        return "full", None
    quantised = config.object("quantization_config")
    if quantised.value("quant_method") == "gguf":
        return "full", None  # and what of it is kept as it is depends on what they are rounded to
    if (scheme := read_integer_scheme(quantised)) is not None:
        return "stored integers", scheme
    if found := _other_scheme(quantised):
        raise config.unsupported("quantization_config", f"found {found}; {_SUPPORTED}")
    return "stored fp8", None


def read_kept_bits(config: ConfigJson) -> int:
    """The most bits of a GGUF file's integers; 0: it has none, or is no GGUF file."""
    quantised = config.object("quantization_config")
    if quantised.value("quant_method") != "gguf":
        return 0
    return quantised.integer("kept_bits", 0, minimum=0)


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

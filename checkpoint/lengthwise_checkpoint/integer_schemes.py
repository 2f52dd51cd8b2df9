"""How projections are stored as integers with scales, by the writers of such checkpoints.

GPTQ (AutoGPTQ, GPTQModel), AWQ (AutoAWQ) and compressed-tensors (llm-compressor). What a
config asks for is read whole or refused: half of it would be other numbers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from lengthwise_checkpoint.config_json import ConfigJson

Layout = Literal["gptq", "awq", "packed", "int8"]

GROUP_STEP: Final = 32
"""Kernels have groups of multiples of it."""
_HEADS: Final[Sequence[Sequence[str]]] = ([], ["lm_head"])
_PROJECTIONS: Final = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}


@dataclass(frozen=True, slots=True, kw_only=True)
class IntegerScheme:
    """`group_size` inputs share a scale, None: all of them. `has_zeros`: zeros are stored, else
    they are in the middle; `zero_step` is what each of them was lessened by. `is_ordered`: groups
    are of inputs in an order that is stored (act-order)."""

    layout: Layout
    bits: int
    group_size: int | None
    has_zeros: bool
    zero_step: int = 0
    is_ordered: bool = False

    @property
    def is_plain(self) -> bool:
        return self.group_size is None and not self.has_zeros

    def num_groups(self, num_inputs: int) -> int:
        return 1 if self.group_size is None else -(-num_inputs // self.group_size)


def read_integer_scheme(found: ConfigJson) -> IntegerScheme | None:
    """Of a quantization_config; None: it is of another kind. Errors: `UnsupportedModel`."""
    method = found.text("quant_method", "")
    if method == "gptq":
        return _gptq(found)
    if method == "awq":
        return _awq(found)
    if method == "compressed-tensors" and found.text("format", "") in _FORMATS:
        return _compressed(found)
    return None


def _gptq(found: ConfigJson) -> IntegerScheme:
    _one_of(found, "bits", found.integer("bits"), (4, 8))
    kind = found.text("checkpoint_format", "gptq")
    _one_of(found, "checkpoint_format", kind, ("gptq", "gptq_v2"))
    _one_of(found, "is_marlin_format", found.boolean("is_marlin_format", False), (False,))
    _one_of(found, "lm_head", found.boolean("lm_head", False), (False,))
    for key in ("dynamic", "rotation", "adapter"):
        _empty(found, key)
    _one_of(found, "pack_dtype", found.text("pack_dtype", "int32"), ("int32",))
    if "modules_in_block_to_quantize" in found:
        _check_modules(found)
    return IntegerScheme(
        layout="gptq",
        bits=found.integer("bits"),
        group_size=_group_size(found),
        has_zeros=True,
        zero_step=int(kind == "gptq"),
        is_ordered=found.boolean("desc_act", False),
    )


def _awq(found: ConfigJson) -> IntegerScheme:
    bits = found.integer("bits" if "bits" in found else "w_bit")
    _one_of(found, "bits", bits, (4,))
    _one_of(found, "version", found.text("version", "gemm").lower(), ("gemm",))
    _one_of(found, "zero_point", found.boolean("zero_point", True), (True,))
    if found.value("backend") == "llm-awq":
        raise found.unsupported("backend", "got 'llm-awq', which packs in another order")
    _one_of(found, "pack_dtype", found.text("pack_dtype", "int32"), ("int32",))
    kept = found.texts("modules_to_not_convert")
    _one_of(found, "modules_to_not_convert", kept, _HEADS)
    size = _group_size(found, "group_size" if "group_size" in found else "q_group_size")
    return IntegerScheme(layout="awq", bits=4, group_size=size, has_zeros=True)


_FORMATS: Final = {"pack-quantized": "packed", "int-quantized": "int8"}


def _compressed(found: ConfigJson) -> IntegerScheme:
    """W4A16 and W8A16 of both formats. Of W8A8 the inputs keep their 16 bits, which is closer to
    the full model than their rounding, where it is made for each token."""
    layout: Layout = "packed" if found.text("format") == "pack-quantized" else "int8"
    names = found.object("config_groups").keys()
    if len(names) != 1:
        raise found.unsupported("config_groups", f"got {names}, expected one group")
    group = found.object("config_groups").object(names[0])
    _one_of(group, "targets", group.texts("targets"), (["Linear"],))
    _one_of(group, "format", group.value("format"), (None, found.text("format")))
    weights, inputs = group.object("weights"), group.object("input_activations")
    bits = weights.integer("num_bits")
    _one_of(weights, "num_bits", bits, (8,) if layout == "int8" else (4, 8))
    _one_of(weights, "type", weights.text("type", "int"), ("int",))
    _one_of(weights, "dynamic", weights.boolean("dynamic", False), (False,))
    strategy = weights.text("strategy")
    _one_of(weights, "strategy", strategy, ("channel", "group"))
    if "input_activations" in group:
        _one_of(inputs, "num_bits", inputs.integer("num_bits"), (8,))
        _one_of(inputs, "type", inputs.text("type", "int"), ("int",))
        _one_of(inputs, "dynamic", inputs.value("dynamic"), (True, "local"))
    _empty(group, "output_activations")
    for key in ("kv_cache_scheme", "transform_config"):
        _empty(found, key)
    sparsity = found.object("sparsity_config")
    _one_of(sparsity, "format", sparsity.text("format", "dense"), ("dense",))
    _one_of(found, "ignore", found.texts("ignore"), (["lm_head"],))
    order = weights.value("actorder")
    _one_of(weights, "actorder", order, (None, False, True, "group", "dynamic", "weight", "static"))
    return IntegerScheme(
        layout=layout,
        bits=bits,
        group_size=_group_size(weights) if strategy == "group" else None,
        has_zeros=not weights.boolean("symmetric", True),
        is_ordered=order in (True, "group", "dynamic"),
    )


def _group_size(found: ConfigJson, key: str = "group_size") -> int | None:
    size = found.integer(key, minimum=-1)
    if size == -1:
        return None
    if size == 0 or size % GROUP_STEP:
        message = f"got {size}, expected -1 or a multiple of {GROUP_STEP}"
        raise found.unsupported(key, message)
    return size


def _check_modules(found: ConfigJson) -> None:
    """All projections of a layer have to be named, in a list of lists."""
    listed = found.listed("modules_in_block_to_quantize")
    names = {name.rpartition(".")[2] for key in listed for name in listed.texts(key)}
    if names != _PROJECTIONS:
        missing = sorted(_PROJECTIONS - names) or sorted(names - _PROJECTIONS)
        message = f"expected all projections of a layer, and no others; see {missing}"
        raise found.unsupported("modules_in_block_to_quantize", message)


def _empty(found: ConfigJson, key: str) -> None:
    if found.value(key):
        raise found.unsupported(key, "is set, which is not supported")


def _one_of(found: ConfigJson, key: str, got: object, expected: Sequence[object]) -> None:
    if not any(got == each and type(got) is type(each) for each in expected):
        allowed = " or ".join(map(repr, expected))
        raise found.unsupported(key, f"got {got!r}, supported is {allowed}")

"""Projections as GPTQ, AWQ and compressed-tensors store them, read as `Codes`.

Words of 32 bits hold 8 or 4 numbers, the first in the lowest bits: of a row's inputs in
compressed-tensors, of a column's in GPTQ, of a row's outputs, in an order of its own, in AWQ.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import torch

from lengthwise_checkpoint.errors import CheckpointError, UnsupportedModel
from lengthwise_checkpoint.integer_schemes import IntegerScheme
from lengthwise_engine.models.integers.codes import Codes

Read = Callable[[str, tuple[int, ...], torch.dtype], torch.Tensor]
"""A tensor by name, shape and type."""

_PROJECTIONS: Final = (
    *(f"self_attn.{each}_proj" for each in "qkvo"),
    *(f"mlp.{each}_proj" for each in ("gate", "up", "down")),
)
_AWQ_ORDER: Final = (0, 4, 1, 5, 2, 6, 3, 7)
"""Where in a word of AWQ its first, second … output lies."""


@dataclass(frozen=True, slots=True)
class StoredIntegers:
    """Reads projections of one scheme. `has` says whether there is a tensor of a name."""

    scheme: IntegerScheme
    has: Callable[[str], bool]
    read: Read

    def check_there(self, num_layers: int) -> None:
        """Before any of it is read. Errors: `CheckpointError`."""
        kinds = [*self._tensors(1, 1), *[self._index] * self.scheme.is_ordered]
        for layer in range(num_layers):
            for each in _PROJECTIONS:
                for kind in kinds:
                    name = f"model.layers.{layer}.{each}.{kind}"
                    if not self.has(name):
                        raise CheckpointError(
                            f"tensor {name} is missing: {self.scheme.layout} of {self.scheme.bits}"
                            f" bits has {', '.join(kinds)}"
                        )

    def codes(self, name: str, num_outputs: int, num_inputs: int) -> Codes:
        """Of projection `name`. Errors: `CheckpointError`."""
        scheme = self.scheme
        found = {
            each: self.read(f"{name}.{each}", shape, dtype)
            for each, (shape, dtype) in self._tensors(num_outputs, num_inputs).items()
        }
        values, scales = self._values(found, num_outputs, num_inputs)
        codes = Codes.around(
            self._zeros(found, scales),
            values=values,
            scales=scales,
            bits=scheme.bits,
            group_size=scheme.group_size or num_inputs,
        )
        if (groups := self._groups(name, num_inputs)) is None:
            return codes
        try:
            return codes.in_order(groups)
        except ValueError as error:
            raise CheckpointError(f"tensor {name}.{self._index}: {error}") from error

    @property
    def _index(self) -> str:
        return "g_idx" if self.scheme.layout == "gptq" else "weight_g_idx"

    def _groups(self, name: str, num_inputs: int) -> torch.Tensor | None:
        """Which group each input is of; None: they lie one after the other."""
        tensor = f"{name}.{self._index}"
        if not self.scheme.is_ordered and not self.has(tensor):
            return None
        return self.read(tensor, (num_inputs,), torch.int32)

    def _tensors(
        self, num_outputs: int, num_inputs: int
    ) -> Mapping[str, tuple[tuple[int, ...], torch.dtype]]:
        """Shapes and types of what is always there."""
        num_groups, layout = self.scheme.num_groups(num_inputs), self.scheme.layout
        in_words, out_words = self._words(num_inputs), self._words(num_outputs)
        if layout in ("gptq", "awq"):
            shape = (in_words, num_outputs) if layout == "gptq" else (num_inputs, out_words)
            return {
                "qweight": (shape, torch.int32),
                "qzeros": ((num_groups, out_words), torch.int32),
                "scales": ((num_groups, num_outputs), torch.float32),
            }
        found: dict[str, tuple[tuple[int, ...], torch.dtype]] = {
            "weight_scale": ((num_outputs, num_groups), torch.float32)
        }
        if layout == "int8":
            found["weight"] = (num_outputs, num_inputs), torch.int8
            zeros = (num_outputs, num_groups), torch.int8
        else:
            found["weight_packed"] = (num_outputs, in_words), torch.int32
            found["weight_shape"] = (2,), torch.int64
            zeros = (out_words, num_groups), torch.int32
        return {**found, "weight_zero_point": zeros} if self.scheme.has_zeros else found

    def _words(self, count: int) -> int:
        return -(-count * self.scheme.bits // 32)

    def _values(
        self, found: Mapping[str, torch.Tensor], num_outputs: int, num_inputs: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """[out, in] of them, and scales [out, groups]."""
        bits = self.scheme.bits
        match self.scheme.layout:
            case "int8":
                return _unsigned(found["weight"]), found["weight_scale"]
            case "packed":
                if found["weight_shape"].tolist() != [num_outputs, num_inputs]:
                    raise CheckpointError(
                        f"a weight_shape is {found['weight_shape'].tolist()}, config.json implies"
                        f" {[num_outputs, num_inputs]}"
                    )
                return _unpacked(found["weight_packed"], bits)[:, :num_inputs], found[
                    "weight_scale"
                ]
            case "gptq":
                rows = _unpacked(found["qweight"].T, bits)
                return rows[:, :num_inputs], found["scales"].T
        columns = _unpacked_awq(found["qweight"])[:, :num_outputs]
        return columns.T.contiguous(), found["scales"].T

    def _zeros(self, found: Mapping[str, torch.Tensor], scales: torch.Tensor) -> torch.Tensor:
        bits, num_outputs = self.scheme.bits, len(scales)
        if not self.scheme.has_zeros:
            return torch.full_like(scales, float(1 << bits - 1))
        match self.scheme.layout:
            case "int8":
                return _unsigned(found["weight_zero_point"]).float()
            case "packed":
                zeros = _unpacked(found["weight_zero_point"].T, bits)
            case "gptq":
                zeros = _unpacked(found["qzeros"], bits)
                zeros = zeros + self.scheme.zero_step & (1 << bits) - 1
            case "awq":
                zeros = _unpacked_awq(found["qzeros"])
        return zeros[:, :num_outputs].T.float()


def stacked(codes: list[Codes], name: str) -> Codes:
    """Of projections of the same inputs, one below the other. Errors: `UnsupportedModel`."""
    first, *others = codes
    for other in others:
        if (first.order is None) != (other.order is None) or (
            first.order is not None
            and other.order is not None
            and not torch.equal(first.order, other.order)
        ):
            raise UnsupportedModel(
                f"{name} and projections of the same inputs have groups of unlike orders"
                " (act-order), which is not supported"
            )
    return first.below(others)


def _unsigned(values: torch.Tensor) -> torch.Tensor:
    return (values ^ -128).view(torch.uint8)


def _unpacked(words: torch.Tensor, bits: int) -> torch.Tensor:
    """[rows, words] to [rows, numbers], uint8."""
    data = words.contiguous().view(torch.uint8)
    if bits == 8:
        return data
    return torch.stack([data & 15, data >> 4], -1).flatten(1)


def _unpacked_awq(words: torch.Tensor) -> torch.Tensor:
    numbers = _unpacked(words, 4)
    return numbers.view(len(numbers), -1, 8)[..., list(_AWQ_ORDER)].flatten(1)

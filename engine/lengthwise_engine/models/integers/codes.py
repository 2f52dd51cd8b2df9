"""One projection's weights as integers with scales, whatever format they come from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import torch
from torch.nn import functional

ROUNDED_BITS: Final[Mapping[str, int]] = {"int8": 8, "int4": 4}
"""Of projections that are rounded when they are loaded."""
ROUNDED_GROUP: Final = 32
"""Inputs that share a scale where weights are rounded to 4 bits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Codes:
    """[out, in]: values * scales + offsets, in groups of `group_size` inputs one after the other;
    the last may have fewer.

    `values` is uint8 of 0 to 2^bits - 1; `scales` and `offsets` are float32 [out, groups]. `order`
    [in], where it is not None: weight i belongs to input order[i].
    """

    values: torch.Tensor
    scales: torch.Tensor
    offsets: torch.Tensor
    bits: int
    group_size: int
    order: torch.Tensor | None = None

    @classmethod
    def rounded(cls, weight: torch.Tensor, bits: int) -> "Codes":
        """A full weight: to 8 bits with a scale for each output, symmetric; to 4 bits with the
        least and the largest of each group at both ends."""
        pieces = [_rounded(piece, bits) for piece in torch.split(weight, _ROWS)]
        values, scales, zeros = (torch.cat(each) for each in zip(*pieces, strict=True))
        group_size = weight.shape[1] if bits == 8 else ROUNDED_GROUP
        return cls.around(zeros, values=values, scales=scales, bits=bits, group_size=group_size)

    @classmethod
    def around(
        cls,
        zeros: torch.Tensor,
        *,
        values: torch.Tensor,
        scales: torch.Tensor,
        bits: int,
        group_size: int,
    ) -> "Codes":
        """(values - zeros) * scales."""
        offsets = -zeros * scales
        return cls(values=values, scales=scales, offsets=offsets, bits=bits, group_size=group_size)

    def in_order(self, groups: torch.Tensor) -> "Codes":
        """The same, where `groups` [in] says which group each input is of. Errors: ValueError."""
        order = torch.argsort(groups, stable=True)
        places = torch.arange(len(groups), device=groups.device)
        if not torch.equal(groups[order].long(), places // self.group_size):
            raise ValueError(f"does not put {self.group_size} inputs into each group")
        if torch.equal(order, places):
            return self
        return replace(self, values=self.values[:, order], order=order)

    def part(self, rows: range, columns: range) -> "Codes":
        """Of some outputs and inputs. Errors: ValueError where that cuts a group."""
        kept = slice(rows.start, rows.stop)
        values, scales, offsets = self.values[kept], self.scales[kept], self.offsets[kept]
        if len(columns) < values.shape[1]:
            values = values[:, columns.start : columns.stop]
            if self.group_size < self.values.shape[1]:
                if self.order is not None or columns.start % self.group_size:
                    raise ValueError(
                        f"inputs {columns.start} to {columns.stop} begin within a group"
                    )
                first = columns.start // self.group_size
                groups = slice(first, first - (-len(columns) // self.group_size))
                scales, offsets = scales[:, groups], offsets[:, groups]
        return replace(self, values=values, scales=scales, offsets=offsets)

    def to(self, device: torch.device) -> "Codes":
        """Of groups one after the other: without an order."""
        values, scales, offsets = (
            each.to(device) for each in (self.values, self.scales, self.offsets)
        )
        return replace(self, values=values, scales=scales, offsets=offsets)

    @property
    def is_plain(self) -> bool:
        """Whether each output has one scale and a zero in the middle."""
        middle = float(1 << self.bits - 1)
        return self.scales.shape[1] == 1 and torch.equal(self.offsets, -middle * self.scales)

    def below(self, others: "Sequence[Codes]") -> "Codes":
        """With those of other projections of the same inputs below it."""
        everything = [self, *others]
        return replace(
            self,
            values=torch.cat([each.values for each in everything]),
            scales=torch.cat([each.scales for each in everything]),
            offsets=torch.cat([each.offsets for each in everything]),
        )


_LEAST: Final = 2.0**-100
"""A scale's inverse has to be a normal number."""
_ROWS: Final = 512
"""Rounded at once, in float32."""


def _rounded(weight: torch.Tensor, bits: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Values, scales and zeros of `Codes`, of some rows."""
    num_inputs = weight.shape[1]
    if bits == 8:
        scales = weight.abs().amax(1, keepdim=True).float().clamp(min=_LEAST) / 127
        values = torch.div(weight, scales).round_().add_(128)
        return values.to(torch.uint8), scales, torch.full_like(scales, 128.0)
    padded = functional.pad(weight.float(), (0, -num_inputs % ROUNDED_GROUP))
    groups = padded.view(len(weight), padded.shape[1] // ROUNDED_GROUP, ROUNDED_GROUP)
    low, high = groups.amin(2).clamp(max=0), groups.amax(2).clamp(min=0)
    scales = (high - low).clamp(min=_LEAST) / 15
    zeros = (-low / scales).round_()
    values = groups.div(scales.unsqueeze(2)).add_(zeros.unsqueeze(2)).round_().clamp_(0, 15)
    return values.to(torch.uint8).flatten(1)[:, :num_inputs], scales, zeros

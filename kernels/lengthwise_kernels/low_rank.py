"""Low-rank products of many adapters in one batch, on CPUs, and what every device has of them.

A row x with adapter s gains (x A_s^T) B_s^T. Both halves are sums of rows of a table, each times a
number: x A_s^T is the rows of A_s^T times the numbers in x. PyTorch's `embedding_bag` computes such
sums for all rows of a batch in one pass, each over the rows of the table that it names: adapters
are neither gathered nor padded to a common number of rows, and a row is added up by itself in the
order of its inputs, in float32, so that no bit of it depends on the rows beside it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import torch
from numpy.typing import NDArray

from lengthwise_kernels.attention_plan import PaddedShape
from lengthwise_kernels.staging import Arrays

Ints = NDArray[np.int64]


class AdapterRows:
    """The rows of a batch that have an adapter."""

    def __init__(self, slots: torch.Tensor) -> None:
        """`slots`: [rows], the number of each row's adapter; below 0: it has none."""
        chosen = (slots >= 0).nonzero().squeeze(1)
        self.chosen = None if len(chosen) == len(slots) else chosen
        """Their numbers; None: all rows are."""
        self._slots = slots[chosen].int()
        self._bags: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def __len__(self) -> int:
        return len(self._slots)

    def bags(self, size: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Of a table with `size` rows for each adapter: the numbers of those that each row adds up,
        one row's after the other's, and where each row's begin."""
        if size not in self._bags:
            within = torch.arange(size, dtype=torch.int32)
            numbers = (self._slots.unsqueeze(1) * size + within).flatten()
            begins = torch.arange(0, len(numbers), size, dtype=torch.int32)
            self._bags[size] = numbers, begins
        return self._bags[size]


@dataclass(frozen=True, slots=True)
class AdapterTiles:
    """The same for GPUs, in tiles of rows with one adapter: `adapters` [tiles] is each tile's, and
    `rows` [tiles * rows of a tile] are its rows; -1 where there is none."""

    adapters: torch.Tensor
    rows: torch.Tensor

    def __len__(self) -> int:
        return len(self.adapters)


Rows = AdapterRows | AdapterTiles


@dataclass(frozen=True, slots=True)
class StepAdapters:
    """Those of all `tokens` of a step, and of its `sampled` ones."""

    tokens: Rows
    sampled: Rows

    @classmethod
    def bind(cls, tensors: Mapping[str, torch.Tensor]) -> "StepAdapters | None":
        """`tensors` are what `lay_out_adapters` laid out, on the device; None: no token has one."""
        if "adapters.tokens.tiles" in tensors:
            return cls(*(
                AdapterTiles(tensors[f"adapters.{name}.tiles"], tensors[f"adapters.{name}.rows"])
                for name in ("tokens", "sampled")
            ))  # fmt: skip
        if "adapters.tokens" in tensors:
            named = (tensors["adapters.tokens"], tensors["adapters.sampled"])
            return cls(*map(AdapterRows, named))
        return None


def lay_out_adapters(
    tokens: Ints, sampled: Ints, num_adapters: int, padded_to: PaddedShape | None = None
) -> Arrays:
    """Of a step in which some token has one of `num_adapters`: `tokens` and `sampled` are the
    numbers of each row's, -1 where it has none. The arrays of steps that are padded alike have one
    shape."""
    return {"adapters.tokens": tokens, "adapters.sampled": sampled}


@dataclass(frozen=True, slots=True, kw_only=True)
class LowRankProduct:
    """What adapters add to one projection, or to `len(ups)` of them that share their inputs.

    `down` is [adapters * in, len(ups) * rank], A^T of each adapter below that of the one before;
    each of `ups` says where the outputs of one projection begin, and is [adapters * rank, out],
    B^T times the adapter's scaling. They lie one after the other in `up`.
    """

    rank: int
    down: torch.Tensor
    up: torch.Tensor
    ups: Sequence[tuple[int, torch.Tensor]]

    @classmethod
    def zeros(
        cls,
        num_adapters: int,
        rank: int,
        inputs: int,
        outputs: Sequence[tuple[int, int]],
        dtype: torch.dtype,
        device: torch.device,
    ) -> "LowRankProduct":
        """`outputs`: where those of each projection begin, and how many they are."""
        rows = num_adapters * rank
        ends = list(accumulate(rows * count for _, count in outputs))
        up = torch.zeros(ends[-1], dtype=dtype, device=device)
        ups = [
            (begin, up[end - rows * count : end].view(rows, count))
            for (begin, count), end in zip(outputs, ends, strict=True)
        ]
        shape = (num_adapters * inputs, len(ups) * rank)
        down = torch.zeros(shape, dtype=dtype, device=device)
        return cls(rank=rank, down=down, up=up, ups=ups)

    @property
    def num_adapters(self) -> int:
        return len(self.ups[0][1]) // self.rank

    @property
    def num_inputs(self) -> int:
        return len(self.down) // self.num_adapters

    @property
    def num_outputs(self) -> int:
        """Up to the last one that is changed."""
        begin, up = self.ups[-1]
        return begin + up.shape[1]


def add_low_rank(
    result: torch.Tensor, x: torch.Tensor, product: LowRankProduct, rows: Rows
) -> torch.Tensor:
    """To `result` [rows, all outputs], in place; other rows are not touched."""
    assert isinstance(rows, AdapterRows)
    inner = _sums(product.down, x if rows.chosen is None else x[rows.chosen], rows)
    numbers = torch.split(inner, product.rank, 1)
    for (begin, up), own in zip(product.ups, numbers, strict=True):
        outputs = result.narrow(1, begin, up.shape[1])
        if rows.chosen is None:
            outputs.add_(_sums(up, own, rows))
        else:
            outputs.index_add_(0, rows.chosen, _sums(up, own, rows))
    return result


def _sums(table: torch.Tensor, numbers: torch.Tensor, rows: AdapterRows) -> torch.Tensor:
    """Of each row's part of `table`, times the row's `numbers` [rows, part]."""
    indices, begins = rows.bags(numbers.shape[1])
    return torch.embedding_bag(
        table, indices, begins, per_sample_weights=numbers.reshape(-1), mode=0
    )[0]

"""Low-rank products of many adapters in one batch, on CPUs.

A row x with adapter s gains (x A_s^T) B_s^T. Both halves are sums of rows of a table, each times a
number: x A_s^T is the rows of A_s^T times the numbers in x. PyTorch's `embedding_bag` computes such
sums for all rows of a batch in one pass, each over the rows of the table that it names: adapters
are neither gathered nor padded to a common number of rows, and a row is added up by itself in the
order of its inputs, in float32, so that no bit of it depends on the rows beside it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch


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


@dataclass(frozen=True, slots=True, kw_only=True)
class LowRankProduct:
    """What adapters add to one projection, or to `len(ups)` of them that share their inputs.

    `down` is [adapters * in, len(ups) * rank], A^T of each adapter below that of the one before;
    each of `ups` says where the outputs of one projection begin, and is [adapters * rank, out],
    B^T times the adapter's scaling.
    """

    rank: int
    down: torch.Tensor
    ups: Sequence[tuple[int, torch.Tensor]]

    @property
    def num_inputs(self) -> int:
        return len(self.down) * self.rank // len(self.ups[0][1])

    @property
    def num_outputs(self) -> int:
        """Up to the last one that is changed."""
        begin, up = self.ups[-1]
        return begin + up.shape[1]

    def add_to(self, result: torch.Tensor, x: torch.Tensor, rows: AdapterRows) -> torch.Tensor:
        """To `result` [rows, all outputs], in place; other rows are not touched."""
        inner = _sums(self.down, x if rows.chosen is None else x[rows.chosen], rows)
        for (begin, up), numbers in zip(self.ups, torch.split(inner, self.rank, 1), strict=True):
            outputs = result.narrow(1, begin, up.shape[1])
            if rows.chosen is None:
                outputs.add_(_sums(up, numbers, rows))
            else:
                outputs.index_add_(0, rows.chosen, _sums(up, numbers, rows))
        return result


def _sums(table: torch.Tensor, numbers: torch.Tensor, rows: AdapterRows) -> torch.Tensor:
    """Of each row's part of `table`, times the row's `numbers` [rows, part]."""
    indices, begins = rows.bags(numbers.shape[1])
    return torch.embedding_bag(
        table, indices, begins, per_sample_weights=numbers.reshape(-1), mode=0
    )[0]

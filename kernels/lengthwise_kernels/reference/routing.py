"""Which experts compute which rows."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True, kw_only=True)
class Routes:
    """Rows sorted by the expert that computes them, and among those of one as they come in.

    `rows` and `weights` [rows * num_chosen] say which row it is and what the expert's result is
    multiplied by, `counts` [experts] how many rows each expert has.
    """

    rows: torch.Tensor
    weights: torch.Tensor
    counts: Sequence[int]

    def segments(self) -> Iterator[tuple[int, torch.Tensor, torch.Tensor]]:
        """Of each expert that has any: its number, its rows, and their weights [its rows, 1]."""
        begin = 0
        for expert, count in enumerate(self.counts):
            if count:
                own = slice(begin, begin + count)
                yield expert, self.rows[own], self.weights[own].unsqueeze(1)
                begin += count


def route(logits: torch.Tensor, num_chosen: int, *, is_normalised: bool) -> Routes:
    """Each row of `logits` [rows, experts] takes the `num_chosen` of the largest softmax, which are
    divided by their sum if it `is_normalised`. In float32, as Hugging Face's models have it."""
    shares, experts = logits.float().softmax(-1).topk(num_chosen)
    if is_normalised:
        shares = shares / shares.sum(-1, keepdim=True)
    chosen = experts.flatten()
    order = chosen.argsort(stable=True)
    return Routes(
        rows=order // num_chosen,
        weights=shares.flatten()[order],
        counts=chosen.bincount(minlength=logits.shape[1]).tolist(),
    )

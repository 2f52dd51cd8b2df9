"""Two models beside each other on one text: how much worse does the second predict it?

Both read the same pieces, chunk by chunk, and nothing is kept of a chunk but a few numbers of each
token.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from lengthwise_engine.accuracy.scorer import Scorer


@dataclass(frozen=True, slots=True, kw_only=True)
class TextAccuracy:
    """Of `tokens` predicted tokens of one text. `perplexity` is exp of the mean loss in nats,
    `full_perplexity` the full model's; `agreement` the share of tokens of which both find the same
    one likeliest; KL(full || mode) is in nats, per token."""

    text: str
    tokens: int
    perplexity: float
    full_perplexity: float
    agreement: float
    kl_mean: float
    kl_p99: float

    @property
    def perplexity_increase(self) -> float:
        """As a share of the full model's."""
        return self.perplexity / self.full_perplexity - 1.0


class OnProgress(Protocol):
    def __call__(self, done: int, total: int) -> None:
        """Of the tokens of a text."""


def compare(
    name: str,
    pieces: Sequence[Sequence[int]],
    model: Scorer,
    full: Scorer,
    on_progress: OnProgress,
) -> TextAccuracy:
    """`pieces` have two tokens or more each, and fit into both models' caches."""
    total, done = sum(len(piece) - 1 for piece in pieces), 0
    columns: list[torch.Tensor] = []
    for piece in pieces:
        start = 0
        for own, expected in zip(model.logits(piece), full.logits(piece), strict=True):
            targets = torch.tensor(piece[start + 1 : start + 1 + len(own)])
            start += len(own)
            if not len(targets):
                continue
            columns.append(_of_chunk(own[: len(targets)], expected[: len(targets)], targets))
            done += len(targets)
            on_progress(done, total)
    losses, full_losses, agreements, divergences = torch.cat(columns, dim=1).double().numpy()
    return TextAccuracy(
        text=name,
        tokens=total,
        perplexity=_perplexity(losses),
        full_perplexity=_perplexity(full_losses),
        agreement=float(agreements.mean()),
        kl_mean=float(divergences.mean()),
        kl_p99=float(np.percentile(divergences, 99)),
    )


def _of_chunk(own: torch.Tensor, full: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """[4, tokens]: both losses, whether the likeliest token is the same, the divergence."""
    targets = targets.to(own.device)
    log_own, log_full = own.log_softmax(-1), full.log_softmax(-1)
    loss = functional.nll_loss(log_own, targets, reduction="none")
    full_loss = functional.nll_loss(log_full, targets, reduction="none")
    same = (own.argmax(-1) == full.argmax(-1)).float()
    divergence = (log_full.exp() * (log_full - log_own)).sum(-1).clamp(min=0.0)
    return torch.stack([loss, full_loss, same, divergence]).cpu()


def _perplexity(losses: NDArray[np.float64]) -> float:
    mean = float(losses.mean())
    # Where a text is less likely than floats can say; what is no number stays none.
    return math.inf if mean > 700.0 else math.exp(mean)

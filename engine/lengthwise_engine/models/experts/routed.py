"""A layer's experts one after the other: each computes all of its rows at once, so that its weights
are read once for all of them."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch

from lengthwise_engine.models.linear import Projection
from lengthwise_kernels.dispatch import route


@dataclass(frozen=True, slots=True)
class Expert:
    """An MLP of silu(gate) * up, or a rank's share of its neurons."""

    gate_up: Projection
    down: Projection

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return self.down.after_gate(self.gate_up(x))

    def in_any_batch(self) -> "Expert":
        return Expert(self.gate_up.in_any_batch(), self.down.in_any_batch())


@dataclass(slots=True)
class ExpertCounts:
    """What the experts of a layer have done so far, on all ranks; read by other threads. Of all
    `rows` that they computed `busiest_rows` were those of each step's busiest expert. A step reads
    the weights of the experts that have any: `reads`."""

    rows: int = 0
    busiest_rows: int = 0
    reads: int = 0

    def add(self, step: Sequence[int]) -> None:
        """Of each expert how many rows it has in a step."""
        self.rows += sum(step)
        self.busiest_rows += max(step)
        self.reads += sum(count > 0 for count in step)


@dataclass(frozen=True, slots=True, kw_only=True)
class Experts:
    """Those that this rank computes, number `first` and on of all that `router` scores.
    `num_chosen` and `is_normalised` are as `ExpertsSpec` has them."""

    router: Projection
    experts: tuple[Expert, ...]
    num_chosen: int
    is_normalised: bool
    first: int = 0
    counts: ExpertCounts = field(default_factory=ExpertCounts)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """[rows, hidden]: the weighted sum of those that each row takes, added in float32 in the
        order of the experts."""
        routes = route(self.router(x), self.num_chosen, is_normalised=self.is_normalised)
        self.counts.add(routes.counts())
        rows, shares = routes.order // self.num_chosen, routes.shares.flatten()[routes.order]
        own = range(self.first, self.first + len(self.experts))
        total = torch.zeros_like(x, dtype=torch.float32)
        for expert, places in routes.of(own).segments():
            partial = self.experts[expert](x[rows[places]])
            total.index_add_(0, rows[places], partial.float().mul_(shares[places].unsqueeze(1)))
        return total.to(x.dtype)

    def in_any_batch(self) -> "Experts":
        return replace(
            self,
            router=self.router.in_any_batch(),
            experts=tuple(expert.in_any_batch() for expert in self.experts),
        )

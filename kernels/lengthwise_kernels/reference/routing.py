"""Which experts compute which rows, and matrix products in which each row has its expert's matrix.

Each expert that a row takes is a place: number row * num_chosen + choice, choices from the one with
the largest share on. Products go by expert, so that the matrices of each are read once for all of
its places.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch

from lengthwise_kernels.packed import linear
from lengthwise_kernels.reference.fp8 import Fp8Rows, scaled_linear


@dataclass(frozen=True, slots=True, kw_only=True)
class Routes:
    """`shares` [rows, num_chosen], float32, are what results are multiplied by. `order` [places]
    has the places sorted by expert, and among those of one as rows come in; expert e has
    order[begins[e] : begins[e + 1]], `begins` [experts + 1]. `is_part`: there are other experts.
    """

    shares: torch.Tensor
    order: torch.Tensor
    begins: torch.Tensor
    is_part: bool = False

    @property
    def num_chosen(self) -> int:
        return self.shares.shape[1]

    def of(self, experts: range) -> "Routes":
        """To these experts alone, numbered from 0."""
        num_experts = len(self.begins) - 1
        begins = self.begins[experts.start : experts.stop + 1]
        return replace(self, begins=begins, is_part=len(experts) < num_experts)

    def counts(self) -> Sequence[int]:
        """Of each expert how many places it has. Waits for the device."""
        counts: list[int] = self.begins.diff().tolist()
        return counts

    def segments(self) -> Iterator[tuple[int, slice]]:
        """Each expert that has any places, and where they are in `order`. Waits for the device."""
        begins = self.begins.tolist()
        for expert, (begin, end) in enumerate(itertools.pairwise(begins)):
            if begin < end:
                yield expert, slice(begin, end)


def route(logits: torch.Tensor, num_chosen: int, *, is_normalised: bool) -> Routes:
    """Each row of `logits` [rows, experts] takes the `num_chosen` of the largest softmax, which are
    divided by their sum if it `is_normalised`. In float32, as Hugging Face's models have it."""
    shares, experts = logits.float().softmax(-1).topk(num_chosen)
    if is_normalised:
        shares = shares / shares.sum(-1, keepdim=True)
    chosen = experts.flatten()
    ends = chosen.bincount(minlength=logits.shape[1]).cumsum(0)
    return Routes(
        shares=shares,
        order=chosen.argsort(stable=True).int(),
        begins=torch.cat((ends.new_zeros(1), ends)).int(),
    )


def gathered_linear(
    x: torch.Tensor | Fp8Rows,
    weight: torch.Tensor | Fp8Rows,
    routes: Routes,
    dtype: torch.dtype,
) -> torch.Tensor:
    """`x` [rows, in] by the experts that rows take: [places, out] of `dtype`, sorted by expert.

    `weight` is [experts, out, in], both in `dtype` or both 8-bit numbers with scales. What other
    experts compute is left as it is.
    """
    return _by_expert(x, weight, routes, dtype, gathers=True)


def scattered_linear(
    x: torch.Tensor | Fp8Rows,
    weight: torch.Tensor | Fp8Rows,
    routes: Routes,
    dtype: torch.dtype,
) -> torch.Tensor:
    """`x` [places, in], sorted by expert, by theirs: [places, out] by their numbers; zeros where
    other experts compute. Else as `gathered_linear`."""
    return _by_expert(x, weight, routes, dtype, gathers=False)


def combine(partials: torch.Tensor, routes: Routes) -> torch.Tensor:
    """The sum of each row's `partials` [places, size], each times its share: added in float32 in
    the order of choices, and of the type of `partials` [rows, size]."""
    parts = partials.view(*routes.shares.shape, -1).float() * routes.shares.unsqueeze(-1)
    total = parts[:, 0]
    for choice in range(1, routes.num_chosen):
        total = total + parts[:, choice]
    return total.to(partials.dtype)


def _by_expert(
    x: torch.Tensor | Fp8Rows,
    weight: torch.Tensor | Fp8Rows,
    routes: Routes,
    dtype: torch.dtype,
    *,
    gathers: bool,
) -> torch.Tensor:
    outputs = (weight.values if isinstance(weight, Fp8Rows) else weight).shape[1]
    out = torch.zeros(len(routes.order), outputs, dtype=dtype, device=routes.order.device)
    for expert, own in routes.segments():
        places = routes.order[own]
        source = places // routes.num_chosen if gathers else own
        target = own if gathers else places
        if isinstance(x, Fp8Rows) and isinstance(weight, Fp8Rows):
            rows = Fp8Rows(values=x.values[source], scales=x.scales[source])
            matrix = Fp8Rows(values=weight.values[expert], scales=weight.scales[expert])
            out[target] = scaled_linear(rows, matrix, None, dtype)
        elif isinstance(x, torch.Tensor) and isinstance(weight, torch.Tensor):
            out[target] = linear(x[source], weight[expert], None)
        else:
            raise TypeError("x and weight must both be 8-bit numbers, or neither")
    return out

"""The cases of mixtures of experts: all of a layer's, from scores to what a row gets.

Beside an expert at a time, which asks the host how many rows each has, and beside PyTorch's grouped
products where it has them.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch.nn import functional

from gpu.agreement.case import Case, Run, Sizes
from lengthwise_kernels.gpu import silu_mul
from lengthwise_kernels.gpu.experts import combine, grouped_linear
from lengthwise_kernels.gpu.experts import routing as gpu_routing
from lengthwise_kernels.reference import layers, routing


def expert_cases(sizes: Sizes, device: str, dtype: torch.dtype) -> Iterator[Case]:
    """One of each number of rows, over the same weights."""
    count, chosen, hidden, inner = sizes.experts
    gate_up, down = (
        0.05 * torch.randn(count, outputs, inputs, device=device, dtype=dtype)
        for outputs, inputs in ((2 * inner, hidden), (hidden, inner))
    )
    for rows in sizes.expert_rows:
        x = torch.randn(rows, hidden, device=device, dtype=dtype)
        scores = torch.randn(rows, count, device=device)  # in 16 bits some would be equal
        arguments = (x, scores, gate_up, down, chosen)
        rivals: dict[str, Run] = {
            "one by one": partial(one_by_one, *arguments),
        }
        if device == "cuda":
            rivals["grouped_mm"] = partial(grouped_mm, *arguments)
        touched = min(count, rows * chosen)
        num_bytes = touched * (gate_up[0].nbytes + down[0].nbytes) + 2 * x.nbytes
        yield Case(
            op="experts",
            shape=f"{rows} rows, {chosen} of {count} of {hidden} x {inner}",
            ours=partial(ours, *arguments),
            rivals=rivals,
            num_bytes=num_bytes,
            flops=6 * rows * chosen * hidden * inner,
            rivals_ask_the_host=True,
        )


def ours(
    x: torch.Tensor,
    scores: torch.Tensor,
    gate_up: torch.Tensor,
    down: torch.Tensor,
    chosen: int,
) -> torch.Tensor:
    routes = gpu_routing.route(scores, chosen, is_normalised=True)
    inner = grouped_linear.gathered_linear(x, gate_up, routes, x.dtype)
    gated = silu_mul.silu_mul(inner)
    parts = grouped_linear.scattered_linear(gated, down, routes, x.dtype)
    return combine.combine(parts, routes)


def one_by_one(
    x: torch.Tensor, scores: torch.Tensor, gate_up: torch.Tensor, down: torch.Tensor, chosen: int
) -> torch.Tensor:
    routes = routing.route(scores, chosen, is_normalised=True)
    inner = layers.silu_mul(routing.gathered_linear(x, gate_up, routes, x.dtype))
    return routing.combine(routing.scattered_linear(inner, down, routes, x.dtype), routes)


def grouped_mm(
    x: torch.Tensor, scores: torch.Tensor, gate_up: torch.Tensor, down: torch.Tensor, chosen: int
) -> torch.Tensor:
    """Rows are copied for each of their experts, and brought back."""
    multiply: Callable[..., Any] = functional.grouped_mm
    routes = routing.route(scores, chosen, is_normalised=True)
    ends = routes.begins[1:]
    inner = multiply(x[routes.order // chosen], gate_up.transpose(1, 2), offs=ends)
    sorted_parts = multiply(silu_mul.silu_mul(inner), down.transpose(1, 2), offs=ends)
    parts = torch.empty_like(sorted_parts)
    parts[routes.order] = sorted_parts
    return routing.combine(parts, routes)

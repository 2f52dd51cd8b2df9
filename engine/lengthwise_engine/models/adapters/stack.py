"""The adapters of a model as they are computed: their matrices in one table for each projection.

A step whose rows have adapters is computed by layers whose projections add what adapters add; one
without is computed by the model's own, as if there were none.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import torch

from lengthwise_checkpoint.spec import DecoderSpec
from lengthwise_engine.models.adapters.files import AdapterFile, projection_sizes
from lengthwise_engine.models.linear import Projection, Unfused
from lengthwise_engine.models.weights import DenseLayerWeights, LayerWeights
from lengthwise_kernels.low_rank import AdapterRows, LowRankProduct

PARTS: Final = {
    "qkv": ("q_proj", "k_proj", "v_proj"),
    "output": ("o_proj",),
    "gate_up": ("gate_proj", "up_proj"),
    "down": ("down_proj",),
}
"""What lies side by side in one projection of `LayerWeights`."""

Products = Mapping[str, LowRankProduct]
"""Of one layer, by the names of projections that adapters change."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AdaptedProjection(Unfused):
    """A projection and what the adapters of some `rows` add to it."""

    base: Projection
    product: LowRankProduct
    rows: AdapterRows

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return self.product.add_to(self.base(x), x, self.rows)

    def in_any_batch(self) -> "AdaptedProjection":
        return replace(self, base=self.base.in_any_batch())


@dataclass(frozen=True, slots=True, kw_only=True)
class ProductShape:
    """Of one projection's product: `parts` are the names of what adapters change in it, and where
    the outputs of each begin and end."""

    rank: int
    inputs: int
    parts: Mapping[str, tuple[int, int]]

    def zeros(self, num_adapters: int, dtype: torch.dtype) -> LowRankProduct:
        outputs = self.parts.values()
        ups = [
            (begin, torch.zeros(num_adapters * self.rank, end - begin, dtype=dtype))
            for begin, end in outputs
        ]
        down = torch.zeros(num_adapters * self.inputs, len(ups) * self.rank, dtype=dtype)
        return LowRankProduct(rank=self.rank, down=down, ups=ups)

    def num_bytes(self, num_adapters: int, item_bytes: int) -> int:
        outputs = sum(end - begin for begin, end in self.parts.values())
        each = self.rank * (self.inputs * len(self.parts) + outputs)
        return num_adapters * each * item_bytes


Shapes = Mapping[str, ProductShape]
"""Of every layer's projections that adapters change, by name."""


def stack_shapes(spec: DecoderSpec, targets: Collection[str], rank: int) -> Shapes:
    """For adapters that change `targets` and have `rank` at most."""
    sizes = projection_sizes(spec)
    shapes = {}
    for name, members in PARTS.items():
        begin, parts = 0, {}
        for member in members:
            inputs, outputs = sizes[member]
            if member in targets:
                parts[member] = begin, begin + outputs
            begin += outputs
        if parts:
            shapes[name] = ProductShape(rank=rank, inputs=inputs, parts=parts)
    return shapes


class AdapterStack:
    """Room for some adapters of one model, layer by layer: steps name them by their number."""

    def __init__(self, shapes: Shapes, num_layers: int, size: int, dtype: torch.dtype) -> None:
        """For `size` adapters, none of which adds anything yet, to compute in `dtype`."""
        self._shapes = shapes
        self._layers: list[Products] = [
            {name: shape.zeros(size, dtype) for name, shape in shapes.items()}
            for _ in range(num_layers)
        ]

    def fill(self, number: int, file: AdapterFile) -> None:
        """Puts an adapter in the place of another, which nothing may be computed with meanwhile. A
        smaller rank is filled up with zeros."""
        own = file.spec.rank
        for layer, products in enumerate(self._layers):
            for name, product in products.items():
                shape = self._shapes[name]
                down = _part(product.down, number, shape.inputs).zero_()
                downs = down.view(shape.inputs, len(shape.parts), shape.rank)
                for place, projection in enumerate(shape.parts):
                    up = _part(product.ups[place][1], number, shape.rank).zero_()
                    matrices = file.matrices(layer, projection)
                    if matrices is not None:
                        a, b = matrices
                        downs[:, place, :own] = a.T
                        up[:own] = (b.float() * file.spec.scaling).T

    def tensors(self) -> Iterator[torch.Tensor]:
        """All it has."""
        for products in self._layers:
            for product in products.values():
                yield product.down
                yield from (up for _, up in product.ups)

    def products(self) -> Iterator[tuple[str, LowRankProduct]]:
        """Of the first layer, whose shapes are those of all."""
        yield from self._layers[0].items()

    def applied(
        self, layers: Sequence[LayerWeights], slots: torch.Tensor, sampled: torch.Tensor
    ) -> Sequence[LayerWeights]:
        """The layers for a step whose rows have the adapters of these numbers, `slots` [rows], -1
        for none. Beyond its keys and values the last layer computes the rows `sampled` alone."""
        rows, last_rows = AdapterRows(slots), AdapterRows(slots[sampled])
        last = len(layers) - 1
        return [
            _adapted(layer, products, rows, last_rows if index == last else rows)
            for index, (layer, products) in enumerate(zip(layers, self._layers, strict=True))
        ]


def _adapted(
    layer: LayerWeights, products: Products, rows: AdapterRows, later_rows: AdapterRows
) -> LayerWeights:
    """`later_rows`: of what comes after the attention."""
    assert isinstance(layer, DenseLayerWeights), "mixtures of experts have no adapters"

    def projection(name: str, base: Projection, rows: AdapterRows) -> Projection:
        if name not in products or not len(rows):
            return base
        return AdaptedProjection(base=base, product=products[name], rows=rows)

    return replace(
        layer,
        qkv=projection("qkv", layer.qkv, rows),
        output=projection("output", layer.output, later_rows),
        gate_up=projection("gate_up", layer.gate_up, later_rows),
        down=projection("down", layer.down, later_rows),
    )


def stack_bytes(shapes: Shapes, num_layers: int, size: int, item_bytes: int) -> int:
    """Of an `AdapterStack`, in numbers of `item_bytes`."""
    return num_layers * sum(shape.num_bytes(size, item_bytes) for shape in shapes.values())


def _part(table: torch.Tensor, number: int, size: int) -> torch.Tensor:
    """The rows of one adapter."""
    return table[number * size : (number + 1) * size]

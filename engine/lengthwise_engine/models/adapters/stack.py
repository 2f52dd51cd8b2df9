"""The adapters of a model as they are computed: their matrices in one table for each projection.

A step whose rows have adapters is computed by layers whose projections add what adapters add; one
without is computed by the model's own, as if there were none.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import torch

from lengthwise_engine.models.adapters.files import AdapterFile, projection_parts
from lengthwise_engine.models.linear import Projection, Unfused
from lengthwise_engine.models.shard import ModelShard
from lengthwise_engine.models.weights import DenseLayerWeights, LayerWeights
from lengthwise_kernels.dispatch import LowRankProduct, Rows, StepAdapters, add_low_rank

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
    rows: Rows

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return add_low_rank(self.base(x), x, self.product, self.rows)

    def in_any_batch(self) -> "AdaptedProjection":
        return replace(self, base=self.base.in_any_batch())


@dataclass(frozen=True, slots=True, kw_only=True)
class ProductShape:
    """Of one projection's product: the `inputs` it has, and `parts`, by the names of what adapters
    change in it: where their outputs begin, and which of all outputs they are."""

    rank: int
    inputs: range
    parts: Mapping[str, tuple[int, range]]

    def zeros(self, size: int, dtype: torch.dtype, device: torch.device) -> LowRankProduct:
        """For `size` adapters."""
        outputs = [(begin, len(kept)) for begin, kept in self.parts.values()]
        return LowRankProduct.zeros(size, self.rank, len(self.inputs), outputs, dtype, device)

    def tables(self, product: LowRankProduct, number: int) -> list[torch.Tensor]:
        """What the product has of one adapter, down first."""
        ups = [_part(up, number, self.rank) for _, up in product.ups]
        return [_part(product.down, number, len(self.inputs)), *ups]

    def read(self, file: AdapterFile, layer: int, dtype: torch.dtype) -> Iterator[torch.Tensor]:
        """What `tables` are to be for an adapter. A smaller rank is filled up with zeros."""
        matrices = [file.matrices(layer, projection) for projection in self.parts]
        down = torch.zeros(len(self.inputs), len(self.parts), self.rank, dtype=dtype)
        for place, found in enumerate(matrices):
            if found is not None:
                a = found[0]
                down[:, place, : len(a)] = a[:, self.inputs.start : self.inputs.stop].T
        yield down
        for found, (_, kept) in zip(matrices, self.parts.values(), strict=True):
            up = torch.zeros(self.rank, len(kept), dtype=dtype)
            if found is not None:
                b = found[1][kept.start : kept.stop]
                up[: b.shape[1]] = (b.float() * file.spec.scaling).T
            yield up

    def num_bytes(self, num_adapters: int, item_bytes: int) -> int:
        outputs = sum(len(kept) for _, kept in self.parts.values())
        each = self.rank * (len(self.inputs) * len(self.parts) + outputs)
        return num_adapters * each * item_bytes


Shapes = Mapping[str, ProductShape]
"""Of every layer's projections that adapters change, by name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StackPlan:
    """Room for `size` adapters that change `targets` and have `rank` at most."""

    targets: tuple[str, ...]
    rank: int
    size: int

    def shapes(self, shard: ModelShard) -> Shapes:
        kept, shapes = projection_parts(shard), {}
        for name, members in PARTS.items():
            begin, parts = 0, {}
            for member in members:
                inputs, outputs = kept[member]
                if member in self.targets:
                    parts[member] = begin, outputs
                begin += len(outputs)
            if parts:
                shapes[name] = ProductShape(rank=self.rank, inputs=inputs, parts=parts)
        return shapes

    def num_bytes(self, shard: ModelShard, item_bytes: int) -> int:
        """Of a stack in numbers of `item_bytes`."""
        shapes = self.shapes(shard).values()
        each = sum(shape.num_bytes(self.size, item_bytes) for shape in shapes)
        return shard.whole.num_layers * each

    def stack(self, shard: ModelShard, device: torch.device, dtype: torch.dtype) -> "AdapterStack":
        num_layers = shard.whole.num_layers
        return AdapterStack(self.shapes(shard), num_layers, self.size, device, dtype)


def read_layer(shapes: Shapes, file: AdapterFile, layer: int, dtype: torch.dtype) -> torch.Tensor:
    """All that a stack of these shapes has of a layer of one adapter, as one row of numbers."""
    read = [each for shape in shapes.values() for each in shape.read(file, layer, dtype)]
    return torch.cat([each.view(-1) for each in read])


class AdapterStack:
    """Room for some adapters of one model, or of one rank's part of it, layer by layer: steps name
    them by their number."""

    def __init__(
        self,
        shapes: Shapes,
        num_layers: int,
        size: int,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        """For `size` adapters, none of which adds anything yet, to compute in `dtype`."""
        self.size = size
        self.dtype = dtype
        self._shapes = shapes
        self._layers: list[Products] = [
            {name: shape.zeros(size, dtype, device) for name, shape in shapes.items()}
            for _ in range(num_layers)
        ]

    def store(self, number: int, layer: int, numbers: torch.Tensor) -> None:
        """A layer of an adapter, as `read_layer` has it, in the place of another's, which nothing
        may be computed with meanwhile."""
        tables = [
            table
            for name, product in self._layers[layer].items()
            for table in self._shapes[name].tables(product, number)
        ]
        sizes = [table.numel() for table in tables]
        for table, part in zip(tables, torch.split(numbers, sizes), strict=True):
            table.copy_(part.view(table.shape))

    def tensors(self) -> Iterator[torch.Tensor]:
        """All it has."""
        for products in self._layers:
            for product in products.values():
                yield product.down
                yield product.up

    def products(self) -> Iterator[tuple[str, LowRankProduct]]:
        """Of the first layer, whose shapes are those of all."""
        yield from self._layers[0].items()

    def applied(self, layers: Sequence[LayerWeights], step: StepAdapters) -> Sequence[LayerWeights]:
        """The layers for a step whose rows have these adapters. Beyond its keys and values the last
        layer computes the sampled rows alone."""
        rows, last = step.tokens, len(layers) - 1
        return [
            _adapted(layer, products, rows, step.sampled if index == last else rows)
            for index, (layer, products) in enumerate(zip(layers, self._layers, strict=True))
        ]


def _adapted(layer: LayerWeights, products: Products, rows: Rows, later_rows: Rows) -> LayerWeights:
    """`later_rows`: of what comes after the attention."""
    assert isinstance(layer, DenseLayerWeights), "mixtures of experts have no adapters"

    def projection(name: str, base: Projection, rows: Rows) -> Projection:
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


def _part(table: torch.Tensor, number: int, size: int) -> torch.Tensor:
    """The rows of one adapter."""
    return table[number * size : (number + 1) * size]

"""What a model has of memory for adapters, which may be fewer than there are on disk."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from lengthwise_checkpoint.errors import UnsupportedModel
from lengthwise_engine.models.adapters.files import (
    AdapterFile,
    check_computed,
    projection_parts,
    read_adapter,
)
from lengthwise_engine.models.adapters.stack import AdapterStack, StackPlan, read_layer
from lengthwise_engine.models.shard import ModelShard


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterSettings:
    """`folders` are those of adapters by name. `places` of them are in memory at once; 0: all.
    `other_rank`: others come later, which may have this rank and change any projection; 0: none."""

    folders: Mapping[str, Path] = field(default_factory=dict)
    places: int = 0
    other_rank: int = 0

    def __bool__(self) -> bool:
        return bool(self.folders) or self.other_rank > 0

    def room(
        self, shard: ModelShard, device: torch.device, dtype: torch.dtype
    ) -> "AdapterRoom | None":
        """None where there are none to be served. Errors: as `AdapterRoom`."""
        if not self:
            return None
        check_computed(shard.whole)
        return AdapterRoom(self, shard, device, dtype)


NO_ADAPTERS = AdapterSettings()

Store = Callable[[int, int, torch.Tensor], None]
"""`AdapterStack.store` of a rank, wherever it is computed."""


class AdapterRoom:
    """Takes memory when it is opened, on all ranks of a model."""

    def __init__(
        self,
        settings: AdapterSettings,
        shard: ModelShard,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        """`shard`: any rank's. Raises `CheckpointError` for an adapter that is damaged or of
        another model, `UnsupportedModel` for one that is not computed."""
        self._shard = shard
        self._device = device
        self._dtype = dtype
        self.files = tuple(read_adapter(*named, shard.whole) for named in settings.folders.items())
        targets = frozenset[str]().union(*(file.targets for file in self.files))
        if settings.other_rank:
            targets = frozenset(projection_parts(shard))
        self.plan = StackPlan(
            targets=tuple(sorted(targets)),
            rank=max([settings.other_rank, *(file.spec.rank for file in self.files)]),
            size=settings.places or len(self.files),
        )
        ranks = [replace(shard, rank=rank) for rank in range(shard.size)]
        self._shapes = [self.plan.shapes(rank) for rank in ranks]
        self._stores: Sequence[Store] = ()

    @property
    def places(self) -> int:
        return self.plan.size

    @property
    def num_bytes(self) -> int:
        """On each rank."""
        return self.plan.num_bytes(self._shard, self._dtype.itemsize)

    def open(self) -> AdapterStack:
        """Of a model on one rank; `fill` of it."""
        stack = self.plan.stack(self._shard, self._device, self._dtype)
        self.fill([stack.store])
        return stack

    def fill(self, stores: Sequence[Store]) -> None:
        """Puts the first of the files at their places; `stores` are of all ranks, in order."""
        self._stores = stores
        for number, file in enumerate(self.files[: self.places]):
            self.put(number, file)

    def put(self, number: int, file: AdapterFile) -> None:
        """In the place of another adapter, which nothing may be computed with meanwhile. What rank
        0 has read is what the others get: they look at no files. Steps wait for a layer at most."""
        for layer in range(self._shard.whole.num_layers):
            for shapes, store in zip(self._shapes, self._stores, strict=True):
                store(number, layer, read_layer(shapes, file, layer, self._dtype))

    def read(self, name: str, folder: Path) -> AdapterFile:
        """One that came later. Errors: as when the room is made, and for a rank above its own."""
        file = read_adapter(name, folder, self._shard.whole)
        if file.spec.rank > self.plan.rank:
            raise UnsupportedModel(
                f"{folder}: got r {file.spec.rank}, expected at most {self.plan.rank}, which is"
                " adapter_rank"
            )
        return file

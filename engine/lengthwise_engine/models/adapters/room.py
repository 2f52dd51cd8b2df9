"""What a model has of memory for adapters, which may be fewer than there are on disk."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch

from lengthwise_checkpoint.errors import UnsupportedModel
from lengthwise_checkpoint.spec import DecoderSpec
from lengthwise_engine.models.adapters.files import (
    AdapterFile,
    check_computed,
    projection_sizes,
    read_adapter,
)
from lengthwise_engine.models.adapters.stack import AdapterStack, stack_bytes, stack_shapes
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
        check_computed(shard.whole, device, shard.size)
        return AdapterRoom(self, shard.whole, dtype)


NO_ADAPTERS = AdapterSettings()


class AdapterRoom:
    """Takes memory when it is opened."""

    def __init__(self, settings: AdapterSettings, spec: DecoderSpec, dtype: torch.dtype) -> None:
        """Raises `CheckpointError` for an adapter that is damaged or of another model,
        `UnsupportedModel` for one that is not computed."""
        self._spec = spec
        self._dtype = dtype
        self.files = tuple(read_adapter(*named, spec) for named in settings.folders.items())
        targets = frozenset[str]().union(*(file.targets for file in self.files))
        if settings.other_rank:
            targets = frozenset(projection_sizes(spec))
        self._rank = max([settings.other_rank, *(file.spec.rank for file in self.files)])
        self._shapes = stack_shapes(spec, targets, self._rank)
        self.places = settings.places or len(self.files)

    @property
    def num_bytes(self) -> int:
        return stack_bytes(self._shapes, self._spec.num_layers, self.places, self._dtype.itemsize)

    def open(self) -> AdapterStack:
        """With the first of the files in it, each at the place of its file."""
        stack = AdapterStack(self._shapes, self._spec.num_layers, self.places, self._dtype)
        for number, file in enumerate(self.files[: self.places]):
            stack.fill(number, file)
        self._stack = stack
        return stack

    def put(self, number: int, file: AdapterFile) -> None:
        """In the place of another adapter, which nothing may be computed with meanwhile."""
        self._stack.fill(number, file)

    def read(self, name: str, folder: Path) -> AdapterFile:
        """One that came later. Errors: as when the room is made, and for a rank above its own."""
        file = read_adapter(name, folder, self._spec)
        if file.spec.rank > self._rank:
            raise UnsupportedModel(
                f"{folder}: got r {file.spec.rank}, expected at most {self._rank}, which is"
                " adapter_rank"
            )
        return file

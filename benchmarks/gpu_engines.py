"""The engine that a task measures, made when it is first asked for.

The rule: one model lies on the device at a time; asking for another one frees it first.
"""

import gc
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from gpu_models import RandomModel, Shape, random_model

from lengthwise_engine.kv.cache import KVCache
from lengthwise_engine.models.spec import Projections
from lengthwise_engine.runner import ModelRunner
from lengthwise_engine.torch_runner import TorchRunner


@dataclass(slots=True, kw_only=True)
class Engine:
    """A model and a cache filled at random, so that nothing is timed on zeros."""

    name: str
    model: RandomModel
    cache: KVCache

    @property
    def projections(self) -> Projections:
        return self.model.decoder.spec.projections

    def runner(self, *, graphs: bool) -> ModelRunner:
        return TorchRunner(self.model.decoder, self.cache)


class Engines:
    """Holds at most one engine."""

    def __init__(self, shapes: Mapping[str, Shape], device: str, dtype: torch.dtype) -> None:
        self._shapes = shapes
        self._device = device
        self._dtype = dtype
        self._held: Engine | None = None

    def get(self, name: str, num_blocks: int, projections: Projections = "full") -> Engine:
        """The engine of this shape, with at least so many blocks."""
        held = self._held
        if (
            held is None
            or (held.name, held.projections) != (name, projections)
            or held.cache.num_blocks < num_blocks
        ):
            held = None
            self.drop()
            model = random_model(
                self._shapes[name], self._device, self._dtype, projections=projections
            )
            cache = model.cache(num_blocks)
            cache.tensor.normal_()
            held = self._held = Engine(name=name, model=model, cache=cache)
        return held

    def drop(self) -> None:
        """Frees what is held."""
        self._held = None
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

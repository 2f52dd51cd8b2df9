"""The engine that a task measures, made when it is first asked for.

One model lies on the device at a time; asking for another one frees it first.
"""

import gc
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import torch

from lengthwise_checkpoint.spec import Projections
from lengthwise_engine.kv.cache import KVCache
from lengthwise_engine.runner.graph_recorder import CudaRecorder
from lengthwise_engine.runner.graph_shapes import GraphPlan
from lengthwise_engine.runner.torch_runner import TorchRunner
from random_models.models import RandomModel, Shape, random_model

GRAPH_MEMORY_BYTES: Final = 8 << 30
"""An H200 has more left beside a model of 32B and the KV of the largest batch."""


@dataclass(slots=True, kw_only=True)
class Engine:
    """A model and a cache filled at random, so that nothing is timed on zeros."""

    name: str
    model: RandomModel
    cache: KVCache
    _runners: dict[bool, TorchRunner] = field(default_factory=dict)

    @property
    def projections(self) -> Projections:
        return self.model.decoder.spec.projections

    def runner(self, *, graphs: bool) -> TorchRunner:
        """The same one whenever it is asked for: it keeps the graphs it captured. A CPU has none,
        so that all steps are launched there."""
        if graphs not in self._runners:
            device = self.model.decoder.device
            recorder = CudaRecorder(device) if graphs and device.type == "cuda" else None
            self._runners[graphs] = TorchRunner(
                self.model.decoder,
                self.cache,
                recorder=recorder,
                graphs=GraphPlan(memory_bytes=GRAPH_MEMORY_BYTES),
            )
            self._runners[graphs].capture_graphs()
        return self._runners[graphs]

    def require_replays(self) -> None:
        """Raises RuntimeError if graphs were to be measured and none was replayed."""
        counts = self.runner(graphs=True).counts
        if self.model.decoder.device.type == "cuda" and not counts.replayed:
            raise RuntimeError(
                f"no step of {self.name} was replayed; {counts.graphs} graphs were captured in"
                f" {counts.graph_bytes} of {GRAPH_MEMORY_BYTES} bytes"
            )


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

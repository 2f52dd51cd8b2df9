"""A batch between its launch and its tokens, and when it will have ended."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from lengthwise_engine.runner.base import PendingStep, SettledStep
from lengthwise_policy.length_class import LengthClass
from lengthwise_policy.prefill.batch import PrefillBatch
from lengthwise_prefill_worker.kv.pieces import PieceReady


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstChunk:
    """When and why a request's first chunk ran."""

    at: float
    reason: str


@dataclass(slots=True, kw_only=True)
class LaunchedBatch:
    """What is known of a batch when it is planned; its requests may be released meanwhile."""

    batch: PrefillBatch
    planned_at: float
    predicted_seconds: float
    num_layers: int
    tokens: Mapping[LengthClass, int]
    """Of the batch, by their requests' length classes."""
    cached: Sequence[PieceReady]
    """KV that lies before the batch's chunks, for requests that begin with it."""
    packed: Sequence[PieceReady]
    """KV that leaves once the batch has ended, and not layer by layer."""
    launched_at: float = 0.0
    pending: PendingStep = field(default_factory=lambda: SettledStep([]))
    ended_at: float | None = None
    """Where it was seen to end."""
    _layers: int = field(default=0, init=False)
    _layer_at: float = field(default=0.0, init=False)

    def passed(self, layer: int, at: float) -> None:
        """A layer is computed."""
        self._layers, self._layer_at = layer + 1, at

    def ends_at(self, began_at: float) -> float:
        """By what was predicted, or once layers have passed, by what these took."""
        if self._layer_at <= began_at:
            return began_at + self.predicted_seconds
        return began_at + (self._layer_at - began_at) * self.num_layers / self._layers

"""The runner of a model that several ranks compute together; this is rank 0's, the worker's own.

Rank 0 plans and samples. It sends the others each step before it computes its own part,
and whatever goes wrong with one of them ends the step with a `RankError`, and the worker with it.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lengthwise_checkpoint.spec import ModelSpec
from lengthwise_engine.kv.layout import KVLayout
from lengthwise_engine.kv.shards import KVShards
from lengthwise_engine.runner.base import (
    PendingStep,
    SampledToken,
    SequenceChunk,
    SettledStep,
    check_chunks,
)
from lengthwise_engine.runner.graphs import StepCounts
from lengthwise_engine.runner.torch_runner import TorchRunner
from lengthwise_engine.tensor_parallel.rank_process import RankProcess
from lengthwise_engine.tensor_parallel.steps import pack_step
from lengthwise_engine.tensor_parallel.watch import RankWatch


class ParallelRunner:
    """A `ModelRunner` of the whole model."""

    def __init__(
        self,
        own: TorchRunner,
        ranks: Sequence[RankProcess],
        watch: RankWatch,
        *,
        spec: ModelSpec,
        shards: KVShards,
        stall_seconds: float,
    ) -> None:
        """`own` is rank 0's part, `spec` and `shards` the whole model's."""
        self._own = own
        self._ranks = ranks
        self._watch = watch
        self._spec = spec
        self._shards = shards
        self._stall_seconds = stall_seconds
        # Collectives on CPUs are bounded each; those on CUDA only by the thread that waits for the
        # device.
        self._step_seconds = stall_seconds if shards.device_type == "cuda" else None
        self._before: Sequence[SequenceChunk] = ()

    @property
    def layout(self) -> KVLayout:
        return self._shards.layout

    @property
    def counts(self) -> StepCounts:
        """What rank 0 has computed, as all others have."""
        return self._own.counts

    @property
    def runs_ahead(self) -> bool:
        return self._own.runs_ahead

    def launch(
        self, chunks: Sequence[SequenceChunk], on_layer: Callable[[int], None] | None = None
    ) -> PendingStep:
        check_chunks(
            chunks,
            layout=self.layout,
            num_blocks=self._shards.num_blocks,
            spec=self._spec,
            before=self._before,
        )
        if not chunks:
            return SettledStep([])
        message = pack_step(chunks, self.layout.block_size)
        with self._watch.step(self._step_seconds):
            for rank in self._ranks:
                rank.send(message, self._stall_seconds)
            step = self._own.launch(chunks, on_layer)
        self._before = chunks
        patience = math.inf if self._step_seconds is None else self._step_seconds
        return WatchedStep(step, self._watch, self._step_seconds, time.monotonic() + patience)

    def run(
        self, chunks: Sequence[SequenceChunk], on_layer: Callable[[int], None] | None = None
    ) -> list[SampledToken | None]:
        return self.launch(chunks, on_layer).tokens()


@dataclass(frozen=True, slots=True)
class WatchedStep:
    """A `PendingStep` that ends with a `RankError` when a rank is lost."""

    step: PendingStep
    watch: RankWatch
    seconds: float | None
    overdue_at: float

    @property
    def is_ready(self) -> bool:
        """Also when it may never be: the caller goes on to `tokens`, which is watched."""
        if self.watch.failure is not None or time.monotonic() > self.overdue_at:
            return True
        return self.step.is_ready

    def tokens(self) -> list[SampledToken | None]:
        with self.watch.step(self.seconds):
            return self.step.tokens()

"""The toy model on a device of its own: a thread that computes launched steps one after the other.

As on a GPU, `launch` returns at once, what a step writes lands in the cache while its
caller does something else, and rows follow tokens that only the device knows.
"""

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

from lengthwise_checkpoint.toy import ToySpec
from lengthwise_engine.kv.cache import KVCache
from lengthwise_engine.runner.base import (
    PendingStep,
    SampledToken,
    SequenceChunk,
    with_known_tokens,
)
from lengthwise_engine.toy.runner import ToyRunner

STEP_SECONDS = 60.0
"""Far more than any step of a toy takes."""


@dataclass(frozen=True, slots=True)
class ComputingStep:
    """A `PendingStep` on the device's thread; what goes wrong there is raised by `tokens`."""

    computed: Future[list[SampledToken | None]]
    on_layer: Callable[[int], None] | None = None
    layers: deque[int] = field(default_factory=deque)
    """Computed, and not yet announced."""

    @property
    def is_ready(self) -> bool:
        has_ended = self.computed.done()
        self._announce()
        return has_ended

    def tokens(self) -> list[SampledToken | None]:
        tokens = self.computed.result(STEP_SECONDS)
        self._announce()
        return tokens

    def _announce(self) -> None:
        while self.layers:
            layer = self.layers.popleft()
            if self.on_layer is not None:
                self.on_layer(layer)


class AsynchronousToyRunner(ToyRunner):
    """A `ToyRunner` that runs ahead."""

    def __init__(self, cache: KVCache, spec: ToySpec) -> None:
        super().__init__(cache, spec)
        self._device = ThreadPoolExecutor(max_workers=1, thread_name_prefix="toy-device")
        self._last: Future[list[SampledToken | None]] = Future()
        self._last.set_result([])

    @property
    def runs_ahead(self) -> bool:
        return True

    def launch(
        self, chunks: Sequence[SequenceChunk], on_layer: Callable[[int], None] | None = None
    ) -> PendingStep:
        self._check(chunks)
        before, self._before = self._last, chunks
        layers: deque[int] = deque()

        def compute() -> list[SampledToken | None]:
            # The step before has ended: the thread has only one.
            return self._compute(with_known_tokens(chunks, before.result()), layers.append)

        self._last = self._device.submit(compute)
        return ComputingStep(self._last, on_layer, layers)

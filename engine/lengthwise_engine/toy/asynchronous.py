"""The toy model on a device of its own: a thread that computes launched steps one after the other.

As on a GPU, `launch` returns at once, what a step writes lands in the cache while its
caller does something else, and rows follow tokens that only the device knows.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from lengthwise_checkpoint.toy import ToySpec
from lengthwise_engine.kv.cache import KVCache
from lengthwise_engine.runner.base import (
    PendingStep,
    SampledToken,
    SequenceChunk,
    SettledStep,
    with_known_tokens,
)
from lengthwise_engine.toy.runner import ToyRunner

STEP_SECONDS = 60.0
"""Far more than any step of a toy takes."""


@dataclass(frozen=True, slots=True)
class ComputingStep:
    """A `PendingStep` on the device's thread; what goes wrong there is raised by `tokens`."""

    computed: Future[list[SampledToken | None]]

    @property
    def is_ready(self) -> bool:
        return self.computed.done()

    def tokens(self) -> list[SampledToken | None]:
        return self.computed.result(STEP_SECONDS)


class AsynchronousToyRunner(ToyRunner):
    """A `ToyRunner` that runs ahead."""

    def __init__(self, cache: KVCache, spec: ToySpec) -> None:
        super().__init__(cache, spec)
        self._device = ThreadPoolExecutor(max_workers=1, thread_name_prefix="toy-device")
        self._last: PendingStep = SettledStep([])

    @property
    def runs_ahead(self) -> bool:
        return True

    def launch(
        self, chunks: Sequence[SequenceChunk], on_layer: Callable[[int], None] | None = None
    ) -> PendingStep:
        self._check(chunks)
        before, self._before = self._last, chunks

        def compute() -> list[SampledToken | None]:
            # The step before has ended: the thread has only one.
            return self._compute(with_known_tokens(chunks, before.tokens()), on_layer)

        if on_layer is None:
            self._last = ComputingStep(self._device.submit(compute))
        else:
            self._last = SettledStep(compute())
        return self._last

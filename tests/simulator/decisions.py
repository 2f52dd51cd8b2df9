"""Every decision of a cluster, real or simulated: recorded where the policies are asked."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import pytest

from lengthwise_policy.decode.request import Grant
from lengthwise_policy.decode.scheduler import DecodeScheduler
from lengthwise_policy.decode.step import DecodeStep
from lengthwise_policy.placement.placement import Placement
from lengthwise_policy.prefill.batch import PrefillBatch
from lengthwise_policy.prefill.scheduler import PrefillScheduler
from lengthwise_policy.types import PromptChunk, RequestId


class Decision(NamedTuple):
    """`what` says it all, with the requests' numbers."""

    at: float
    what: tuple[Any, ...]


class Recorder:
    """`name_of` tells a request's number from what a scheduler calls it."""

    def __init__(self, clock: Callable[[], float], name_of: Callable[[RequestId], str]) -> None:
        self._clock = clock
        self._name_of = name_of
        self._by_scheduler: dict[object, list[Decision]] = defaultdict(list)
        self.placements: list[Decision] = []
        self.last_steps: dict[object, DecodeStep] = {}

    def placed(self, number: str, placement: Placement) -> None:
        what = (number, placement.rule, placement.prefill, placement.decode)
        self.placements.append(Decision(self._clock(), what))

    def of(self, schedulers: Mapping[str, object]) -> dict[str, Sequence[Decision]]:
        """By worker, and the placements."""
        found = {name: self._by_scheduler[each] for name, each in schedulers.items()}
        return {**found, "router": self.placements}

    def attach(self, patch: pytest.MonkeyPatch) -> None:
        """To every scheduler there is."""
        self._watch(patch, PrefillScheduler, "next_batch", self._batch)
        self._watch(patch, DecodeScheduler, "next_step", self._step)
        self._watch(patch, DecodeScheduler, "_grant", self._grant)

    def _watch(
        self,
        patch: pytest.MonkeyPatch,
        kind: type,
        method: str,
        told: Callable[[object, Any], tuple[Any, ...]],
    ) -> None:
        original = getattr(kind, method)

        def watched(scheduler: object, *arguments: Any, **named: Any) -> Any:
            result = original(scheduler, *arguments, **named)
            if result is not None:
                decision = Decision(self._clock(), told(scheduler, result))
                self._by_scheduler[scheduler].append(decision)
            return result

        patch.setattr(kind, method, watched)

    def _batch(self, _: object, batch: PrefillBatch) -> tuple[Any, ...]:
        return ("batch", batch.rule, self._chunks(batch.chunks))

    def _step(self, scheduler: object, step: DecodeStep) -> tuple[Any, ...]:
        self.last_steps[scheduler] = step
        rows = tuple(map(self._name_of, step.request_ids))
        preempted = tuple(map(self._name_of, step.preempted))
        return ("step", rows, self._chunks(step.chunks), preempted)

    def _grant(self, _: object, grant: Grant) -> tuple[Any, ...]:
        return ("grant", self._name_of(grant.request_id), grant.rule, grant.num_cached_tokens)

    def _chunks(self, chunks: Sequence[PromptChunk]) -> tuple[tuple[str, int, int], ...]:
        return tuple(
            (self._name_of(chunk.request_id), chunk.start, chunk.num_tokens) for chunk in chunks
        )

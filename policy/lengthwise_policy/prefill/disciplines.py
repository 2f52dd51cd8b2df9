"""Whose turn it is on a prefill worker: what every discipline answers, and the two plain ones.

`fcfs` computes prompts in the order they came, sharing batches across lengths. `short_first` is
the rule of LAPS' published code: classes by *full* prompt length, short ones strictly first in
batches of at most 8, each open for 5 ms; long ones run while no short batch is due, so a stream of
short prompts starves them. Both are there to be compared with.

The rule: a discipline decides from what it is given (queues, instant, cost) and keeps no clock; it
names the queues to serve in order of preference, and the scheduler takes the first from which a
batch can be made.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from lengthwise_policy.cost.model import CostModel
from lengthwise_policy.length_class import DEFAULT_SHORT_TOKENS, LengthClass, length_class
from lengthwise_policy.prefill.policy import PrefillPolicy
from lengthwise_policy.prefill.queue import PrefillJob, Prompt, PromptQueue, Urgency
from lengthwise_policy.types import PrefillRule


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Compute prompts of this queue now, as far as the limits allow."""

    queue: PromptQueue
    max_tokens: int
    max_requests: int
    rule: PrefillRule
    why: str
    holds: bool = False  # if its head lacks blocks, no other prompt may begin before it


@dataclass(frozen=True, slots=True, kw_only=True)
class Wait:
    """Nothing now; ask again at this instant, or when something changes."""

    until: float


class Discipline(Protocol):
    """Queues of prompts and the rule that orders them. All instants never decrease."""

    @property
    def rules(self) -> tuple[PrefillRule, ...]:
        """Those that its choices may name."""

    def classify(self, job: PrefillJob, residual: int, short_tokens: int) -> LengthClass: ...

    def queue_of(self, length: LengthClass) -> PromptQueue: ...

    def urgency(self, prompt: Prompt) -> Urgency: ...

    def arrived(self, prompt: Prompt) -> None:
        """The prompt is about to be queued for the first time."""

    def choices(self, now: float, cost: CostModel) -> Iterator[Choice | Wait]:
        """In order of preference; ends at once when nothing is queued, or with a Wait."""

    def planned(self, length: LengthClass, seconds: float) -> None:
        """A batch of this queue's class is about to run for about so long."""


def begun_choice(queue: PromptQueue, policy: PrefillPolicy) -> Choice:
    """When nothing else can be done: those that have begun need no blocks."""
    return Choice(
        queue=queue,
        max_tokens=policy.chunk_tokens,
        max_requests=policy.max_batch_requests,
        rule="begun",
        why="others lack blocks",
    )


class FirstCome:
    """One queue in the order of arrival."""

    rules: tuple[PrefillRule, ...] = ("fcfs",)

    def __init__(self, policy: PrefillPolicy) -> None:
        self._policy = policy
        self._queue = PromptQueue()

    def classify(self, job: PrefillJob, residual: int, short_tokens: int) -> LengthClass:
        return length_class(residual, short_tokens)

    def queue_of(self, length: LengthClass) -> PromptQueue:
        return self._queue

    def urgency(self, prompt: Prompt) -> Urgency:
        return (0.0, 0.0, prompt.number)

    def arrived(self, prompt: Prompt) -> None:
        pass

    def choices(self, now: float, cost: CostModel) -> Iterator[Choice | Wait]:
        if self._queue:
            yield Choice(
                queue=self._queue,
                max_tokens=self._policy.chunk_tokens,
                max_requests=self._policy.max_batch_requests,
                rule="fcfs",
                why="in the order of arrival",
            )

    def planned(self, length: LengthClass, seconds: float) -> None:
        pass


class ShortFirst:
    """Two queues in the order of arrival; see the module."""

    rules: tuple[PrefillRule, ...] = ("short_first",)
    MAX_BATCH = 8
    WINDOW_SECONDS = 0.005

    def __init__(self, policy: PrefillPolicy) -> None:
        self._policy = policy
        self._short = PromptQueue()
        self._long = PromptQueue()

    def classify(self, job: PrefillJob, residual: int, short_tokens: int) -> LengthClass:
        return length_class(job.num_tokens, DEFAULT_SHORT_TOKENS)

    def queue_of(self, length: LengthClass) -> PromptQueue:
        return self._short if length == "short" else self._long

    def urgency(self, prompt: Prompt) -> Urgency:
        return (0.0, 0.0, prompt.number)

    def arrived(self, prompt: Prompt) -> None:
        pass

    def choices(self, now: float, cost: CostModel) -> Iterator[Choice | Wait]:
        oldest = self._short.head()
        closes_at = oldest.job.arrived_at + self.WINDOW_SECONDS if oldest else now
        is_due = oldest and (len(self._short) >= self.MAX_BATCH or now >= closes_at)
        if is_due:
            full = len(self._short) >= self.MAX_BATCH
            why = f"{self.MAX_BATCH} wait" if full else f"{self.WINDOW_SECONDS * 1e3:g} ms are over"
            yield self._choice(self._short, min(self.MAX_BATCH, self._max_requests), why)
        if self._long:
            why = "short ones lack blocks" if is_due else "no short batch is due"
            yield self._choice(self._long, 1, why)
        if oldest and not is_due:
            yield Wait(until=closes_at)

    def planned(self, length: LengthClass, seconds: float) -> None:
        pass

    @property
    def _max_requests(self) -> int:
        return self._policy.max_batch_requests

    def _choice(self, queue: PromptQueue, max_requests: int, why: str) -> Choice:
        return Choice(
            queue=queue,
            max_tokens=self._policy.chunk_tokens,
            max_requests=max_requests,
            rule="short_first",
            why=why,
        )

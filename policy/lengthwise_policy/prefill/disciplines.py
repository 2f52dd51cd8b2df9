"""Which prompts a prefill worker serves next: the registry of disciplines, and two plain ones.

`fcfs` computes prompts in the order they came, sharing batches across lengths. `short_first` is
the rule of LAPS' published code: classes by *full* prompt length, short ones strictly first in
batches of at most 8, each open for 5 ms; long ones run while no short batch is due, so a stream of
short prompts starves them. Both are there to be compared with.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

from lengthwise_policy.cost.model import CostModel
from lengthwise_policy.length_class import DEFAULT_SHORT_TOKENS, LengthClass, length_class
from lengthwise_policy.objectives import Objectives
from lengthwise_policy.prefill.batch import PrefillRule
from lengthwise_policy.prefill.discipline import BatchChoice, Discipline, WaitUntil, full_batch
from lengthwise_policy.prefill.length_aware import LengthAware
from lengthwise_policy.prefill.policy import DisciplineName, PrefillPolicy
from lengthwise_policy.prefill.queue import PrefillJob, Prompt, PromptQueue, Urgency


class _ByArrival:
    """Queues in the order of arrival, for which nothing need be remembered."""

    def urgency(self, prompt: Prompt) -> Urgency:
        return (0.0, 0.0, prompt.number)

    def arrived(self, prompt: Prompt) -> None:
        pass

    def planned(self, length: LengthClass, seconds: float) -> None:
        pass


class FirstCome(_ByArrival):
    """One queue in the order of arrival."""

    rules: tuple[PrefillRule, ...] = ("fcfs",)

    def __init__(self, policy: PrefillPolicy) -> None:
        self._policy = policy
        self._queue = PromptQueue()

    def classify(self, job: PrefillJob, residual: int, short_tokens: int) -> LengthClass:
        return length_class(residual, short_tokens)

    def queue_of(self, length: LengthClass) -> PromptQueue:
        return self._queue

    def choices(self, now: float, cost: CostModel) -> Iterator[BatchChoice | WaitUntil]:
        if self._queue:
            yield full_batch(self._queue, self._policy, "fcfs", "in the order of arrival")


class ShortFirst(_ByArrival):
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

    def choices(self, now: float, cost: CostModel) -> Iterator[BatchChoice | WaitUntil]:
        oldest = self._short.head()
        closes_at = oldest.job.arrived_at + self.WINDOW_SECONDS if oldest else now
        is_due = oldest and (len(self._short) >= self.MAX_BATCH or now >= closes_at)
        if is_due:
            full = len(self._short) >= self.MAX_BATCH
            why = f"{self.MAX_BATCH} wait" if full else f"{self.WINDOW_SECONDS * 1e3:g} ms are over"
            yield self._choice(self._short, self.MAX_BATCH, why)
        if self._long:
            why = "short ones lack blocks" if is_due else "no short batch is due"
            yield self._choice(self._long, 1, why)
        if oldest and not is_due:
            yield WaitUntil(until=closes_at)

    def _choice(self, queue: PromptQueue, most: int, why: str) -> BatchChoice:
        choice = full_batch(queue, self._policy, "short_first", why)
        return replace(choice, max_requests=min(most, choice.max_requests))


DISCIPLINES: Mapping[DisciplineName, Callable[[PrefillPolicy, Objectives], Discipline]] = {
    "length_aware": LengthAware,
    "short_first": lambda policy, objectives: ShortFirst(policy),
    "fcfs": lambda policy, objectives: FirstCome(policy),
}


def batch_rules(discipline: DisciplineName) -> tuple[PrefillRule, ...]:
    """The rules that batches of this discipline may name."""
    return (*DISCIPLINES[discipline](PrefillPolicy(), Objectives()).rules, "begun")

"""What a discipline is: it decides which queue of prompts is served next.

It decides from what it is given (queues, instant, cost) and keeps no clock. It names queues in
order of preference, and the scheduler serves the first of which it can make a batch.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from lengthwise_policy.cost.model import CostModel
from lengthwise_policy.length_class import LengthClass
from lengthwise_policy.prefill.batch import PrefillRule
from lengthwise_policy.prefill.policy import PrefillPolicy
from lengthwise_policy.prefill.queue import PrefillJob, Prompt, PromptQueue, Urgency


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchChoice:
    """Compute prompts of this queue now, as far as the limits allow."""

    queue: PromptQueue
    max_tokens: int
    max_requests: int
    rule: PrefillRule
    why: str
    holds: bool = False  # if its head lacks blocks, no other prompt may begin before it
    # A batch of fewer tokens than these is topped up with prompts of this queue.
    top_up: PromptQueue | None = None
    top_up_tokens: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitUntil:
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

    def choices(self, now: float, cost: CostModel) -> Iterator[BatchChoice | WaitUntil]:
        """In order of preference; ends at once when nothing is queued, or with a Wait."""

    def planned(self, length: LengthClass, seconds: float) -> None:
        """A batch of this queue's class is about to run for about so long."""


def full_batch(
    queue: PromptQueue, policy: PrefillPolicy, rule: PrefillRule, why: str
) -> BatchChoice:
    """As many prompts of the queue as a batch may have at most."""
    return BatchChoice(
        queue=queue,
        max_tokens=policy.chunk_tokens,
        max_requests=policy.max_batch_requests,
        rule=rule,
        why=why,
    )

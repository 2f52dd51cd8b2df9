"""The length-aware discipline: short prompts ahead of long ones, at a price that is bounded.

Classes by residual tokens, in batches of their own. While both classes wait:

1. Short prompts go first ("ahead"), but not before a long one that had aged when they came
   ("aged"). A prompt ages when it has waited for min(half its slack, max_age_seconds), with slack =
   TTFT objective - predicted service time. So a long prompt is overtaken only by what comes soon
   after it. Simulated with ShareGPT's lengths at 70 % load
   (benchmarks/scheduling/prefill_disciplines.py, against first come, first served): with strict
   priority the P99 of long prompts rises by 35 %, with an age of 1 s by 17 %, of 0.5 s by 10 %; the
   median of short ones falls by 62 % or more in all three.
2. But either class is served for its share of the device's time at least ("share"): each batch of
   c seconds earns the class that waits c * share / (1 - share), until that pays for a batch.

So while the other class is served, and blocks are not what it lacks, a class waits from one of its
batches to the next for at most (1 - share) / share * c seconds and one batch more, where c is the
predicted time of its own batch. A head that has aged and lacks blocks keeps all other prompts from
beginning, so that blocks gather for it.

The first of a queue: highest priority, then arrival; a long prompt counts as come later by
min(STRETCH * predicted seconds left, max_age_seconds). So long prompts are served nearly as they
came, but one that takes long yields to one that comes soon after and takes much less, and one that
comes max_age_seconds later never overtakes. In that simulation the median of long prompts falls by
6 %.

Batches of their own cost launches, for each of which all that wait do. So a batch of short prompts
is topped up with tokens of long ones: for each that waits, up to top_up_share of the tokens at
which computing takes as long as a launch (`CostModel.boundary`). A lone long prompt delays short
ones by as much at most, and in a deep queue no batch is small. In trials at 70 % load the P99 of
long prompts falls by 3 % of that of first come, first served on a core, and by 4 % on an H200, at
90 % there by 11 % (docs/policies.md).

Only short prompts waiting: the device is idle. A second of waiting costs a second for each of the n
that wait and saves r launches of t0 seconds, for short prompts that arrive at rate r. So they run
at once ("alone") unless r * t0 > n, and else when that ends or the window closes ("window"), at
min(opened + max_wait_seconds, earliest deadline - predicted batch - margin). In a busy system the
window hardly opens: while a batch ran, about r * t0 or more arrived.

Long prompts run in chunks of chunk_tokens; while short ones wait, in chunks of as many tokens as
take chunk_seconds, but of min_chunk_tokens at least: each chunk costs a launch, t0, that delays all
others.

Equal input gives equal decisions: r is estimated from arrivals, all seconds come from the
cost model. Sources: LAPS (arXiv 2601.11589) for classes and the window, Sarathi-Serve for chunks;
the gain test, the credits and ageing by arrival are ours.
"""

from collections.abc import Iterator
from math import inf

from lengthwise_policy.cost.model import PRIOR, CostModel
from lengthwise_policy.length_class import LENGTH_CLASSES, LengthClass, length_class
from lengthwise_policy.objectives import Objectives
from lengthwise_policy.prefill.arrival_rate import ArrivalRate
from lengthwise_policy.prefill.batch import PrefillRule
from lengthwise_policy.prefill.discipline import BatchChoice, WaitUntil
from lengthwise_policy.prefill.policy import PrefillPolicy
from lengthwise_policy.prefill.queue import PrefillJob, Prompt, PromptQueue, Urgency

STRETCH = 2.0
"""How many times its own service a long prompt yields to shorter ones: 1 and 2 are equal within
2 %, with 6 and more the P99 of long prompts rises."""


class LengthAware:
    """Two queues; short prompts in buckets, so that a batch's lengths are alike. See the module."""

    rules: tuple[PrefillRule, ...] = ("alone", "window", "ahead", "aged", "share")

    def __init__(self, policy: PrefillPolicy, objectives: Objectives) -> None:
        self._policy = policy
        self._objectives = objectives
        self._short = PromptQueue(policy.graph_lengths)
        self._long = PromptQueue()
        self._short_rate = ArrivalRate()
        self._credits = dict.fromkeys(LENGTH_CLASSES, 0.0)  # seconds, while both classes wait
        self._prices = dict.fromkeys(LENGTH_CLASSES, inf)  # of their next batches
        self._opened_at: float | None = None  # the window
        self._cost = PRIOR  # as of the last batch

    def classify(self, job: PrefillJob, residual: int, short_tokens: int) -> LengthClass:
        return length_class(residual, short_tokens)

    def queue_of(self, length: LengthClass) -> PromptQueue:
        return self._short if length == "short" else self._long

    def urgency(self, prompt: Prompt) -> Urgency:
        come_at = prompt.job.arrived_at
        if prompt.length == "long":
            yields = STRETCH * self._seconds_left(prompt, self._cost)
            come_at += min(yields, self._policy.max_age_seconds)
        return (-prompt.job.priority, come_at, prompt.number)

    def arrived(self, prompt: Prompt) -> None:
        if prompt.length == "short":
            self._short_rate.arrived(prompt.job.arrived_at)

    def choices(self, now: float, cost: CostModel) -> Iterator[BatchChoice | WaitUntil]:
        self._cost = cost
        short, long = self._short.head(), self._long.head()
        if short is None or long is not None:
            self._opened_at = None
        if short is not None and long is not None:
            yield from self._both(short, long, now, cost)
            return
        self._credits = dict.fromkeys(LENGTH_CLASSES, 0.0)
        if short is not None:
            yield self._short_alone(short, now, cost)
        elif long is not None:
            yield self._choice(long, now, cost, "alone", "no short ones wait")

    def planned(self, length: LengthClass, seconds: float) -> None:
        self._opened_at = None
        other: LengthClass = "long" if length == "short" else "short"
        self._credits[length] = max(0.0, self._credits[length] - seconds)
        if self._credits[other] < self._prices[other]:
            share = self._share(other)
            self._credits[other] += seconds * share / (1 - share)

    def _both(
        self, short: Prompt, long: Prompt, now: float, cost: CostModel
    ) -> Iterator[BatchChoice | WaitUntil]:
        chunk = min(self._chunk_tokens(long, cost), long.num_missing)
        batch = min(self._policy.chunk_tokens, self._short.num_tokens)
        self._prices["long"] = cost.prefill_seconds(chunk, long.num_computed)
        self._prices["short"] = cost.prefill_seconds(batch, short.num_computed)
        rule: PrefillRule
        if self._ages_at(long, cost) <= short.job.arrived_at:
            first, second = long, short
            rule, why = "aged", f"waited {long.waited(now):.3f} s"
        else:
            first, second = short, long
            rule, why = "ahead", f"of {len(self._long)} long"
        credit, price = self._credits[second.length], self._prices[second.length]
        if credit >= price:
            first, second = second, first
            rule, why = "share", f"earned {credit * 1e3:.1f} of {price * 1e3:.1f} ms"
        yield self._choice(first, now, cost, rule, why)
        yield self._choice(second, now, cost, rule, f"{first.length} ones lack blocks")

    def _short_alone(self, head: Prompt, now: float, cost: CostModel) -> BatchChoice | WaitUntil:
        waiting = len(self._short)
        joining = self._short_rate.per_second(now) * cost.step_seconds
        gains = waiting < joining and waiting < self._policy.max_batch_requests
        if gains:
            opened_at = now if self._opened_at is None else self._opened_at
            until = min(opened_at + self._policy.max_wait_seconds, self._latest_start(cost))
            if now < until:
                self._opened_at = opened_at
                return WaitUntil(until=until)
        if self._opened_at is None:
            why = f"{joining:.1f} would join in one launch's time"
            return self._choice(head, now, cost, "alone", why)
        why = f"open for {(now - self._opened_at) * 1e3:.1f} ms"
        return self._choice(head, now, cost, "window", why)

    def _latest_start(self, cost: CostModel) -> float:
        """When all short prompts in one batch would just meet the earliest of their deadlines."""
        seconds = cost.step_seconds
        due_at = inf
        for prompt in self._short:
            seconds += cost.chunk_seconds(prompt.num_missing, prompt.num_computed)
            due_at = min(due_at, self._due_at(prompt), prompt.job.deadline_at)
        return due_at - seconds - self._policy.margin_seconds

    def _choice(
        self, head: Prompt, now: float, cost: CostModel, rule: PrefillRule, why: str
    ) -> BatchChoice:
        is_short = head.length == "short"
        boundary = min(cost.boundary(), self._policy.chunk_tokens)
        return BatchChoice(
            queue=self.queue_of(head.length),
            max_tokens=self._policy.chunk_tokens if is_short else self._chunk_tokens(head, cost),
            max_requests=self._policy.max_batch_requests,
            rule=rule,
            why=why,
            holds=self._ages_at(head, cost) <= now,
            top_up=self._long if is_short else None,
            top_up_tokens=int(self._policy.top_up_share * boundary * len(self._long)),
        )

    def _chunk_tokens(self, head: Prompt, cost: CostModel) -> int:
        most = self._policy.chunk_tokens
        if not self._short:
            return most
        spare = self._policy.chunk_seconds - cost.step_seconds
        tokens = int(min(cost.tokens_within(spare, head.num_computed), most))
        return min(max(tokens, self._policy.min_chunk_tokens), most)

    def _ages_at(self, prompt: Prompt, cost: CostModel) -> float:
        seconds = prompt.served_seconds + self._seconds_left(prompt, cost)
        slack = max(self._objectives.ttft_seconds(prompt.length) - seconds, 0.0)
        return prompt.job.arrived_at + min(slack / 2, self._policy.max_age_seconds)

    def _seconds_left(self, prompt: Prompt, cost: CostModel) -> float:
        return cost.prefill_seconds(prompt.num_missing, prompt.num_computed)

    def _share(self, length: LengthClass) -> float:
        return self._policy.short_share if length == "short" else self._policy.long_share

    def _due_at(self, prompt: Prompt) -> float:
        return prompt.job.arrived_at + self._objectives.ttft_seconds(prompt.length)

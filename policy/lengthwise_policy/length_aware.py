"""The length-aware discipline: short prompts ahead of long ones, at a price that is bounded.

Classes by residual tokens, never in one batch. While both classes wait (c = predicted seconds):

1. after a batch of long prompts comes one of short prompts ("turn");
2. else a long prompt that has aged is next ("aged"): one that waited longer than
   min(half its slack, max_age_seconds), with slack = TTFT objective - predicted service time;
3. else long prompts run when their credit pays for the chunk ("share"): until it does, each batch
   of short ones earns them c * (1 - short_share) / short_share;
4. else short prompts run ("share").

So while the other class is served, and blocks are not what it lacks, the head of

* the short class waits for at most one batch of long prompts;
* the long class waits, from one of its chunks to the next, for batches of short prompts of
  short_share / (1 - short_share) * c(chunk) seconds and one batch more, and less once it has aged.

The first of a class's queue: highest priority, then earliest TTFT deadline, then arrival. A head
that has aged and lacks blocks keeps all other prompts from beginning, so that blocks gather for it.

Only short prompts waiting: the device is idle. A second of waiting costs a second for each of the n
that wait and saves r launches of t0 seconds, for short prompts that arrive at rate r. So they run
at once ("alone") unless r * t0 > n, and else when that ends or the window closes ("window"), at
min(opened + max_wait_seconds, earliest deadline - predicted batch - margin). In a busy system the
window hardly opens: while a batch ran, about r * t0 or more arrived.

Chunks of long prompts: one of c seconds delays the short prompts that come meanwhile, r * c of them
by c / 2 each; cutting finer delays the n_long prompts in the queue by t0 per cut. The sum
r * c / 2 + n_long * t0 / c is least at c = sqrt(2 * t0 * n_long / r). A chunk has as many tokens as
fit in c, at most chunk_seconds while short prompts wait, and never fewer than min_chunk_tokens or
more than chunk_tokens.

The rule: equal input gives equal decisions; r is estimated from arrivals, all seconds come from the
cost model. Sources: LAPS (arXiv 2601.11589) for classes and the window, Sarathi-Serve for chunks;
the gain test, the credit, ageing and the chunk's formula are ours.
"""

from collections.abc import Iterator
from dataclasses import replace
from math import inf, sqrt

from lengthwise_policy.arrival_rate import ArrivalRate
from lengthwise_policy.cost import CostModel
from lengthwise_policy.disciplines import Choice, Wait
from lengthwise_policy.lengths import LengthClass, length_class
from lengthwise_policy.prefill_policy import PrefillPolicy
from lengthwise_policy.prompts import PrefillJob, Prompt, PromptQueue, Urgency


class LengthAware:
    """Two queues; short prompts in buckets, so that a batch's lengths are alike. See the module."""

    def __init__(self, policy: PrefillPolicy) -> None:
        self._policy = policy
        self._short = PromptQueue(policy.graph_lengths)
        self._long = PromptQueue()
        self._short_rate = ArrivalRate()
        self._credit_seconds = 0.0  # of the long class
        self._price_seconds = 0.0  # of its next chunk
        self._last: LengthClass = "short"
        self._opened_at: float | None = None  # the window

    def classify(self, job: PrefillJob, residual: int, short_tokens: int) -> LengthClass:
        return length_class(residual, short_tokens)

    def queue_of(self, length: LengthClass) -> PromptQueue:
        return self._short if length == "short" else self._long

    def urgency(self, prompt: Prompt) -> Urgency:
        return (-prompt.job.priority, self._due_at(prompt), prompt.number)

    def arrived(self, prompt: Prompt) -> None:
        if prompt.length == "short":
            self._short_rate.arrived(prompt.job.arrived_at)

    def choices(self, now: float, cost: CostModel) -> Iterator[Choice | Wait]:
        short, long = self._short.head(), self._long.head()
        if long is None:
            self._credit_seconds = 0.0
        if short is None or long is not None:
            self._opened_at = None
        if short is not None and long is not None:
            yield from self._both(short, long, now, cost)
        elif short is not None:
            yield self._short_alone(short, now, cost)
        elif long is not None:
            yield self._long_choice(long, now, cost, "alone", "no short ones wait")

    def planned(self, length: LengthClass, seconds: float) -> None:
        self._last = length
        self._opened_at = None
        if length == "long":
            self._credit_seconds = max(0.0, self._credit_seconds - seconds)
        elif self._long and self._credit_seconds < self._price_seconds:
            share = self._policy.short_share
            self._credit_seconds += seconds * (1 - share) / share

    def _both(
        self, short: Prompt, long: Prompt, now: float, cost: CostModel
    ) -> Iterator[Choice | Wait]:
        long_choice = self._long_choice(long, now, cost, "share", "short ones lack blocks")
        chunk_tokens = min(long_choice.max_tokens, long.num_missing)
        price = self._price_seconds = cost.prefill_seconds(chunk_tokens, long.num_computed)
        credit = self._credit_seconds
        account = f"long ones have {credit * 1e3:.1f} of the {price * 1e3:.1f} ms for a chunk"
        if self._last == "long":
            yield self._short_choice(short, now, cost, "turn", "after a batch of long ones")
            yield long_choice
        elif self._has_aged(long, now, cost):
            why = f"waited {long.waited(now):.3f} s"
            yield replace(long_choice, rule="aged", why=why)
            yield self._short_choice(short, now, cost, "share", "long ones lack blocks")
        elif credit >= price:
            yield replace(long_choice, why=account)
            yield self._short_choice(short, now, cost, "share", "long ones lack blocks")
        else:
            yield self._short_choice(short, now, cost, "share", account)
            yield long_choice

    def _short_alone(self, head: Prompt, now: float, cost: CostModel) -> Choice | Wait:
        waiting = len(self._short)
        joining = self._short_rate.per_second(now) * cost.step_seconds
        gains = waiting < joining and waiting < self._policy.max_batch_requests
        if gains:
            opened_at = now if self._opened_at is None else self._opened_at
            until = min(opened_at + self._policy.max_wait_seconds, self._latest_start(cost))
            if now < until:
                self._opened_at = opened_at
                return Wait(until=until)
        if self._opened_at is None:
            why = f"{joining:.1f} would join in one launch's time"
            return self._short_choice(head, now, cost, "alone", why)
        why = f"open for {(now - self._opened_at) * 1e3:.1f} ms"
        return self._short_choice(head, now, cost, "window", why)

    def _latest_start(self, cost: CostModel) -> float:
        """When all short prompts in one batch would just meet the earliest of their deadlines."""
        seconds = cost.step_seconds
        due_at = inf
        for prompt in self._short:
            seconds += cost.chunk_seconds(prompt.num_missing, prompt.num_computed)
            due_at = min(due_at, self._due_at(prompt), prompt.job.deadline_at)
        return due_at - seconds - self._policy.margin_seconds

    def _short_choice(
        self, head: Prompt, now: float, cost: CostModel, rule: str, why: str
    ) -> Choice:
        return Choice(
            queue=self._short,
            max_tokens=self._policy.chunk_tokens,
            max_requests=self._policy.max_batch_requests,
            rule=rule,
            why=why,
            holds=self._has_aged(head, now, cost),
        )

    def _long_choice(
        self, head: Prompt, now: float, cost: CostModel, rule: str, why: str
    ) -> Choice:
        return Choice(
            queue=self._long,
            max_tokens=self._chunk_tokens(head, now, cost),
            max_requests=self._policy.max_batch_requests,
            rule=rule,
            why=why,
            holds=self._has_aged(head, now, cost),
        )

    def _chunk_tokens(self, head: Prompt, now: float, cost: CostModel) -> int:
        rate = self._short_rate.per_second(now)
        seconds = sqrt(2 * cost.step_seconds * len(self._long) / rate) if rate > 0 else inf
        if self._short:
            seconds = min(seconds, self._policy.chunk_seconds)
        most = self._policy.chunk_tokens
        tokens = tokens_within(seconds, head.num_computed, cost, most)
        return min(max(tokens, self._policy.min_chunk_tokens), most)

    def _has_aged(self, prompt: Prompt, now: float, cost: CostModel) -> bool:
        service = prompt.served_seconds + cost.prefill_seconds(
            prompt.num_missing, prompt.num_computed
        )
        slack = max(self._objective(prompt.length) - service, 0.0)
        return prompt.waited(now) >= min(slack / 2, self._policy.max_age_seconds)

    def _due_at(self, prompt: Prompt) -> float:
        return prompt.job.arrived_at + self._objective(prompt.length)

    def _objective(self, length: LengthClass) -> float:
        policy = self._policy
        return policy.ttft_slo_short_seconds if length == "short" else policy.ttft_slo_long_seconds


def tokens_within(seconds: float, history: int, cost: CostModel, most: int) -> int:
    """The most new tokens, up to `most`, whose step after `history` tokens takes `seconds`.

    The positive root of alpha L^2 + (2 alpha H + beta) L = seconds - t0 - gamma H.
    """
    if cost.prefill_seconds(most, history) <= seconds:
        return most
    left = seconds - cost.prefill_seconds(0, history)
    if left <= 0:
        return 0
    alpha = cost.attention_seconds
    linear = cost.token_seconds + 2 * alpha * history
    root = 2 * left / (linear + sqrt(linear * linear + 4 * alpha * left))
    return min(int(root), most)

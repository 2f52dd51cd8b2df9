"""What one caller may use: requests and tokens a minute, and requests at once.

A request begins while every limit has room, if only for a little; what it then needs is charged as
it becomes known, so that it is never cut, and the next one waits for what it has taken too much.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

from lengthwise_policy.admission.token_bucket import ENOUGH, TokenBucket

LimitName = Literal["requests", "tokens", "concurrent"]

LIMIT_NAMES: tuple[LimitName, ...] = get_args(LimitName)

MINUTE = 60.0

RUNNING_RETRY_SECONDS = 1.0
"""Nobody knows when a running request ends."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageLimits:
    """None: no limit."""

    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    max_concurrent: int | None = None

    def share(self, replicas: int) -> "UsageLimits":
        """Of one of so many equal routers; at least one request, and one token, at a time."""
        most = self.max_concurrent
        return UsageLimits(
            requests_per_minute=_part(self.requests_per_minute, replicas),
            tokens_per_minute=_part(self.tokens_per_minute, replicas),
            max_concurrent=None if most is None else max(1, most // replicas),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Exceeded:
    """Why a request may not begin."""

    limit: LimitName
    reason: str
    retry_after_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Allowance:
    """How a limit per minute stands."""

    limit: LimitName
    most: int  # within a minute
    remaining: int
    reset_seconds: float  # until all of it is there again


class UsageMeter:
    """What a caller has used."""

    def __init__(self, limits: UsageLimits) -> None:
        self._running = 0
        self._set(limits)

    def change(self, limits: UsageLimits) -> None:
        """Limits that differ begin anew; requests that run go on counting."""
        if limits != self.limits:
            self._set(limits)

    def _set(self, limits: UsageLimits) -> None:
        self.limits = limits
        self._buckets: dict[LimitName, TokenBucket] = {}
        if limits.requests_per_minute is not None:
            self._buckets["requests"] = _bucket(limits.requests_per_minute)
        if limits.tokens_per_minute is not None:
            self._buckets["tokens"] = _bucket(limits.tokens_per_minute)

    def begin(self, now: float, num_choices: int = 1) -> Exceeded | None:
        """Counts a request, which has to `end`, unless a limit is reached: then nothing is. Of
        those that run at once each choice is one."""
        most = self.limits.max_concurrent
        if most is not None and self._running + num_choices > most:
            asked = f" and {num_choices} choices are asked for" * (num_choices > 1)
            return Exceeded(
                limit="concurrent",
                reason=f"{self._running} requests run{asked}, at most {most} may at once",
                retry_after_seconds=RUNNING_RETRY_SECONDS,
            )
        exceeded = [each for name in self._buckets if (each := self._exceeded(name, now))]
        if exceeded:
            return max(exceeded, key=lambda each: each.retry_after_seconds)
        self._take("requests", 1, now)
        self._running += num_choices
        return None

    def end(self, num_choices: int = 1) -> None:
        """Of a request that began."""
        self._running -= num_choices

    def charge_prompt(self, num_tokens: int, now: float) -> Exceeded | None:
        """Unless others that began at the same time have used what there was."""
        exceeded = self._exceeded("tokens", now)
        if exceeded is None:
            self._take("tokens", num_tokens, now)
        return exceeded

    def charge_output(self, num_tokens: int, now: float) -> None:
        """Tokens that were generated."""
        self._take("tokens", num_tokens, now)

    def allowances(self, now: float) -> Iterator[Allowance]:
        """Of the limits per minute that there are."""
        for name, bucket in self._buckets.items():
            yield Allowance(
                limit=name,
                most=int(bucket.capacity),
                remaining=max(0, int(bucket.level(now) + 1.0 - ENOUGH)),
                reset_seconds=bucket.seconds_until(bucket.capacity, now),
            )

    def _take(self, name: LimitName, amount: int, now: float) -> None:
        if name in self._buckets:
            self._buckets[name].take(amount, now)

    def _exceeded(self, name: LimitName, now: float) -> Exceeded | None:
        bucket = self._buckets.get(name)
        if bucket is None or bucket.level(now) >= ENOUGH:
            return None
        return Exceeded(
            limit=name,
            reason=f"{bucket.capacity:g} {name} a minute are used up",
            retry_after_seconds=bucket.seconds_until(1.0, now),
        )


def _part(limit: float | None, replicas: int) -> float | None:
    return None if limit is None else limit / replicas


def _bucket(per_minute: float) -> TokenBucket:
    return TokenBucket(capacity=max(1.0, per_minute), per_second=per_minute / MINUTE)

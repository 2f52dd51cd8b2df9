"""Whether the router takes one more request, and when a refused client should come back.

The rule: the number of requests in the router is bounded, and a refusal says when a place is likely
to be free instead of leaving every client to its own back-off.
"""

from collections import deque
from dataclasses import dataclass
from typing import ClassVar

from lengthwise_policy.checks import require_at_least

# Completions whose mean gap predicts the next ones: the fewer, the sooner the estimate follows a
# change; of independent completions, 32 still give the gap within 18 % (one standard deviation).
RECENT_COMPLETIONS = 33

# What a refused client is told before two requests have ever completed.
FIRST_RETRY_AFTER_SECONDS = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class AdmissionPolicy:
    """Limits of one router."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    max_requests_in_flight: int = 1024
    max_prompt_tokens: int = 131_072
    min_retry_after_seconds: float = 0.1
    max_retry_after_seconds: float = 30.0

    def __post_init__(self) -> None:
        require_at_least("max_requests_in_flight", self.max_requests_in_flight, 1)
        require_at_least("max_prompt_tokens", self.max_prompt_tokens, 1)
        require_at_least("min_retry_after_seconds", self.min_retry_after_seconds, 0.0)
        require_at_least(
            "max_retry_after_seconds (not below min_retry_after_seconds)",
            self.max_retry_after_seconds,
            self.min_retry_after_seconds,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Admit:
    """The request is taken and counted; `Admission.finished` has to follow."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Refuse:
    """The request is not taken. `retry_after_seconds` is None when it never will be."""

    reason: str
    retry_after_seconds: float | None


class Admission:
    """Counts the requests in one router.

    Refused clients get places in an imaginary line that moves by one with each completion: the k-th
    of them is told to come back after k completions, so that they do not all return at once.
    """

    def __init__(self, policy: AdmissionPolicy) -> None:
        self._policy = policy
        self._in_flight = 0
        self._refused_in_line = 0
        self._completed_at: deque[float] = deque(maxlen=RECENT_COMPLETIONS)

    @property
    def in_flight(self) -> int:
        """Requests admitted and not finished."""
        return self._in_flight

    def ask(self, num_tokens: int, now: float) -> Admit | Refuse:
        """Takes a request of `num_tokens` prompt tokens, or refuses it."""
        if num_tokens > self._policy.max_prompt_tokens:
            return Refuse(
                reason=f"prompt of {num_tokens} tokens, at most {self._policy.max_prompt_tokens} "
                "are accepted; shorten it",
                retry_after_seconds=None,
            )
        if self._in_flight >= self._policy.max_requests_in_flight:
            self._refused_in_line += 1
            return Refuse(
                reason=f"{self._in_flight} requests in flight, the limit is "
                f"{self._policy.max_requests_in_flight}",
                retry_after_seconds=self._retry_after_seconds(now),
            )
        self._in_flight += 1
        return Admit(
            reason=f"{self._in_flight} of {self._policy.max_requests_in_flight} requests in flight"
        )

    def finished(self, now: float) -> None:
        """An admitted request has left, however it ended. RuntimeError if none is in flight."""
        if self._in_flight == 0:
            raise RuntimeError("finished: no request is in flight; call it once per admitted one")
        self._in_flight -= 1
        self._refused_in_line = max(0, self._refused_in_line - 1)
        self._completed_at.append(now)

    def _retry_after_seconds(self, now: float) -> float:
        if len(self._completed_at) < 2:
            wait = FIRST_RETRY_AFTER_SECONDS
        else:
            first, last = self._completed_at[0], self._completed_at[-1]
            # When nothing completes any more, the silence is the better estimate of the gap.
            gap = max((last - first) / (len(self._completed_at) - 1), now - last)
            wait = gap * self._refused_in_line
        return min(
            max(wait, self._policy.min_retry_after_seconds), self._policy.max_retry_after_seconds
        )

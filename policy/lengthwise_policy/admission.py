"""Whether the router takes one more request, and when a refused client should come back.

The rule: the number of requests in the router is bounded, and a refusal says when a place is likely
to be free instead of leaving every client to its own back-off.
"""

from dataclasses import dataclass
from typing import ClassVar

from lengthwise_policy.checks import require_at_least


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
            "max_retry_after_seconds", self.max_retry_after_seconds, self.min_retry_after_seconds
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
    """Counts the requests in one router."""

    def __init__(self, policy: AdmissionPolicy) -> None:
        raise NotImplementedError

    @property
    def in_flight(self) -> int:
        raise NotImplementedError

    def ask(self, num_tokens: int, now: float) -> Admit | Refuse:
        """Takes a request of `num_tokens` prompt tokens, or refuses it."""
        raise NotImplementedError

    def finished(self, now: float) -> None:
        """An admitted request has left, however it ended."""
        raise NotImplementedError

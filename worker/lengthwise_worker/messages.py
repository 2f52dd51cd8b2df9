"""What event loop and engine thread exchange in both roles: commands in, a report per step out."""

from dataclasses import dataclass, field
from typing import Generic, TypeVar

from lengthwise_policy.errors import NeverFits, PolicyError
from lengthwise_policy.kv.prefix_cache import BlockEvents
from lengthwise_policy.types import RequestId
from lengthwise_wire.errors import InvalidRequest, LengthwiseError, Overloaded

OutcomeT = TypeVar("OutcomeT")


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """Command: ends a request in any state and frees its blocks."""

    request_id: RequestId


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestRefused:
    """Outcome: the scheduler did not take the request."""

    request_id: RequestId
    error: PolicyError

    def as_error(self) -> LengthwiseError:
        """For the caller."""
        kind = InvalidRequest if isinstance(self.error, NeverFits) else Overloaded
        return kind(str(self.error))


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestExpired:
    """Outcome: the deadline has passed; the request is still to be released."""

    request_id: RequestId


@dataclass(slots=True, kw_only=True)
class StepReport(Generic[OutcomeT]):
    """Published once per step, and not touched by the engine thread afterwards."""

    outcomes: list[OutcomeT] = field(default_factory=list)
    gap_seconds: float | None = None
    """Since the end of the step before, where this one followed it at once."""
    busy_seconds: float = 0.0
    """From planning the step to publishing its results."""
    block_events: BlockEvents | None = None

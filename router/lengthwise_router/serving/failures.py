"""Why an attempt failed, and what that means for the next one."""

from dataclasses import dataclass

from lengthwise_policy.placement.blame import Blame
from lengthwise_router.labels import LOSS_REASONS, CallFailure, FailureReason, Phase
from lengthwise_wire.errors import (
    DeadlineExceeded,
    LengthwiseError,
    Overloaded,
    Stale,
    TransferFailed,
)


@dataclass(slots=True, kw_only=True, eq=False)
class AttemptFailed(Exception):
    """`error` is what the caller gets if no further attempt is made."""

    phase: Phase
    reason: FailureReason
    error: LengthwiseError
    blame: Blame
    keeps_reservation: bool = False

    @property
    def is_loss(self) -> bool:
        """Whether the connection to a worker ended."""
        return self.reason in LOSS_REASONS

    @property
    def is_busy(self) -> bool:
        """Whether the worker is well, and had too much to do."""
        return self.reason in ("overloaded", "crowded")


def reason_of(error: LengthwiseError) -> CallFailure:
    """Of a call that a worker answered with this error."""
    match error:
        case Overloaded():
            return "overloaded"
        case TransferFailed():
            return "transfer_failed"
        case Stale():
            return "stale"
        case DeadlineExceeded():
            return "timeout"
        case _:
            return "rpc_error"

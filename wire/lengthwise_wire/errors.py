"""The errors of Lengthwise, as one tree. Each class has one gRPC status and is retryable or not, so
that servers map errors to statuses and the SDK maps them back without knowing more.

LengthwiseError
├─ InvalidRequest          INVALID_ARGUMENT      not retryable
│  └─ PromptTooLong        INVALID_ARGUMENT      not retryable
├─ ModelNotFound           NOT_FOUND             not retryable
├─ RequestNotFound         NOT_FOUND             not retryable
├─ Unauthenticated         UNAUTHENTICATED       not retryable
├─ PermissionDenied        PERMISSION_DENIED     not retryable
├─ NotSupported            UNIMPLEMENTED         not retryable
├─ Overloaded              RESOURCE_EXHAUSTED    retryable, after retry_after_seconds
│  └─ LimitExceeded        RESOURCE_EXHAUSTED    retryable, after retry_after_seconds
├─ NoWorkerAvailable       UNAVAILABLE           retryable
│  └─ TransferFailed       UNAVAILABLE           retryable (prefill again elsewhere)
├─ Stale                   ABORTED               not retryable (a newer attempt took its place)
├─ DeadlineExceeded        DEADLINE_EXCEEDED     not retryable
├─ Cancelled               CANCELLED             not retryable
└─ InternalError           INTERNAL              not retryable
"""

from collections.abc import Iterator, Mapping
from typing import ClassVar

import grpc

__all__ = [
    "ERROR_KEY",
    "RETRY_AFTER_KEY",
    "Cancelled",
    "DeadlineExceeded",
    "InternalError",
    "InvalidRequest",
    "LengthwiseError",
    "LimitExceeded",
    "ModelNotFound",
    "NoWorkerAvailable",
    "NotSupported",
    "Overloaded",
    "PermissionDenied",
    "PromptTooLong",
    "RequestNotFound",
    "Stale",
    "TransferFailed",
    "Unauthenticated",
    "from_status",
]

ERROR_KEY = "lengthwise-error"
"""Trailing metadata key that carries the class name."""

RETRY_AFTER_KEY = "lengthwise-retry-after"
"""Trailing metadata key that carries retry_after_seconds."""


class LengthwiseError(Exception):
    """Base of every error of this package. `str(error)`: what, got, expected, remedy."""

    status: ClassVar[grpc.StatusCode] = grpc.StatusCode.INTERNAL
    retryable: ClassVar[bool] = False

    @property
    def retry_after_seconds(self) -> float | None:
        """How long to back off before a retry, where the server knows."""
        return None


class InvalidRequest(LengthwiseError):
    """A field of the request is wrong; the message names it."""

    status = grpc.StatusCode.INVALID_ARGUMENT


class PromptTooLong(InvalidRequest):
    """Prompt, or prompt and max_tokens together, do not fit the context."""


class ModelNotFound(LengthwiseError):
    """The named model is not served here."""

    status = grpc.StatusCode.NOT_FOUND


class RequestNotFound(LengthwiseError):
    """The router remembers no request of this id."""

    status = grpc.StatusCode.NOT_FOUND


class Unauthenticated(LengthwiseError):
    """The peer's certificate or API key was refused."""

    status = grpc.StatusCode.UNAUTHENTICATED


class PermissionDenied(LengthwiseError):
    """The peer is known, and may not call this."""

    status = grpc.StatusCode.PERMISSION_DENIED


class NotSupported(LengthwiseError):
    """The peer does not know this method, or no worker can do what the request asks for."""

    status = grpc.StatusCode.UNIMPLEMENTED


class Overloaded(LengthwiseError):
    """Every queue that could take the request is full."""

    status = grpc.StatusCode.RESOURCE_EXHAUSTED
    retryable = True

    def __init__(self, message: str, retry_after_seconds: float = 1.0) -> None:
        super().__init__(message)
        self._retry_after_seconds = retry_after_seconds

    @property
    def retry_after_seconds(self) -> float:
        return self._retry_after_seconds


class LimitExceeded(Overloaded):
    """The caller's own key may not use more for now."""


class NoWorkerAvailable(LengthwiseError):
    """No worker, or no router, can be reached."""

    status = grpc.StatusCode.UNAVAILABLE
    retryable = True


class TransferFailed(NoWorkerAvailable):
    """KV blocks did not arrive intact; another prefill may succeed."""


class Stale(LengthwiseError):
    """A newer attempt at the same request has taken this one's place."""

    status = grpc.StatusCode.ABORTED


class DeadlineExceeded(LengthwiseError):
    """The request's own deadline passed."""

    status = grpc.StatusCode.DEADLINE_EXCEEDED


class Cancelled(LengthwiseError):
    """The caller cancelled the request."""

    status = grpc.StatusCode.CANCELLED


class InternalError(LengthwiseError):
    """A defect in Lengthwise; the server's log has the details under the request's id."""


def _subclasses(root: type[LengthwiseError]) -> Iterator[type[LengthwiseError]]:
    for child in root.__subclasses__():
        yield child
        yield from _subclasses(child)


def from_status(
    status: grpc.StatusCode, details: str, metadata: Mapping[str, str]
) -> LengthwiseError:
    """Turns a finished call's status back into the error that the server raised.

    `metadata` is the trailing metadata; without our keys (the status came from gRPC itself or a
    proxy) the status alone decides.
    """
    classes = list(_subclasses(LengthwiseError))
    named = [cls for cls in classes if cls.__name__ == metadata.get(ERROR_KEY)]
    fitting = [cls for cls in classes if cls.status is status] or [InternalError]
    cls = (named or fitting)[0]
    if issubclass(cls, Overloaded):
        return cls(details, _seconds(metadata.get(RETRY_AFTER_KEY)))
    return cls(details)


def _seconds(text: str | None) -> float:
    try:
        return min(max(float(text or 1.0), 0.0), 3600.0)
    except ValueError:
        return 1.0

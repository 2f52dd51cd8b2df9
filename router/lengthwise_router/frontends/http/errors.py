"""Errors → OpenAI's error objects with their status, in the names that HTTP's fields have."""

import json
import logging
import math
from dataclasses import dataclass, field
from typing import Final

from lengthwise_runtime.calls.bounded_call import fitting
from lengthwise_wire.errors import (
    Cancelled,
    DeadlineExceeded,
    InternalError,
    InvalidRequest,
    LengthwiseError,
    LimitExceeded,
    ModelNotFound,
    NotSupported,
    NoWorkerAvailable,
    Overloaded,
    PermissionDenied,
    PromptTooLong,
    RequestNotFound,
    Stale,
    Unauthenticated,
)

logger = logging.getLogger(__name__)

RETRY_SECONDS: Final = 1.0
"""Where the error itself does not say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """How a class of errors is told."""

    status: int
    type: str
    code: str | None = None


KINDS: Final[dict[type[LengthwiseError], Kind]] = {
    PromptTooLong: Kind(status=400, type="invalid_request_error", code="context_length_exceeded"),
    InvalidRequest: Kind(status=400, type="invalid_request_error"),
    NotSupported: Kind(status=400, type="invalid_request_error", code="unsupported_value"),
    Unauthenticated: Kind(status=401, type="authentication_error", code="invalid_api_key"),
    PermissionDenied: Kind(status=403, type="permission_error"),
    ModelNotFound: Kind(status=404, type="invalid_request_error", code="model_not_found"),
    RequestNotFound: Kind(status=404, type="invalid_request_error"),
    DeadlineExceeded: Kind(status=408, type="timeout_error"),
    LimitExceeded: Kind(status=429, type="rate_limit_error", code="rate_limit_exceeded"),
    Overloaded: Kind(status=429, type="rate_limit_error", code="overloaded"),
    Cancelled: Kind(status=499, type="cancelled_error"),
    Stale: Kind(status=503, type="server_error"),
    NoWorkerAvailable: Kind(status=503, type="server_error", code="service_unavailable"),
    LengthwiseError: Kind(status=500, type="server_error"),
}
"""The first that an error is of counts."""

FieldNames = tuple[tuple[str, str], ...]

FIELD_NAMES: Final[FieldNames] = (
    ("prompt.conversation", "messages"),
    ("prompt.text", "prompt"),
    ("prompt.token_ids", "prompt"),
    ("stop.strings", "stop"),
    ("stop.token_ids", "stop_token_ids"),
    ("sampling.", ""),
    ("constraint.json_schema", "response_format"),
    ("constraint", "response_format"),
)
"""What the wire's messages begin with, and what HTTP calls it."""

NAMES_OF_CALL: Final = "field_names"
"""What the state of a request has where its endpoint calls them otherwise."""

_REMEDY: Final = ("send prompt.text or prompt.token_ids", "use /v1/completions")


class HttpError(Exception):
    """A refusal that has no class among the errors of the wire."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.headers = headers or {}
        self.status = status
        self.param = param
        self.code = code


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorAnswer:
    """What a caller is told."""

    status: int
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)


def error_answer(error: Exception, names: FieldNames = FIELD_NAMES) -> ErrorAnswer:
    """Never a traceback: what is none of our errors is logged, and told by its class alone."""
    if isinstance(error, HttpError):
        kind = Kind(status=error.status, type="invalid_request_error", code=error.code)
        return _answer(kind, str(error), error.param, error.headers)
    if not isinstance(error, LengthwiseError):
        logger.error("unexpected error in a handler", exc_info=error)
        error = InternalError(f"a defect in the server ({type(error).__name__}); see its log")
    kind = next(kind for cls, kind in KINDS.items() if isinstance(error, cls))
    message, param = _in_names_of_http(str(error), names)
    headers = {"www-authenticate": "Bearer"} if kind.status == 401 else {}
    if error.retryable:
        seconds = error.retry_after_seconds
        seconds = RETRY_SECONDS if seconds is None else seconds
        headers = {
            "retry-after": str(math.ceil(seconds)),
            "retry-after-ms": str(math.ceil(1000 * seconds)),
        }
    return _answer(kind, message, param if kind.status in (400, 404) else None, headers)


def _answer(
    kind: Kind, message: str, param: str | None, headers: dict[str, str] | None = None
) -> ErrorAnswer:
    error = {"message": fitting(message), "type": kind.type, "param": param, "code": kind.code}
    return ErrorAnswer(
        status=kind.status, body=json.dumps({"error": error}).encode(), headers=headers or {}
    )


def _in_names_of_http(message: str, names: FieldNames) -> tuple[str, str | None]:
    """The message, and the field that it begins with, if it does."""
    for name, ours in names:
        if message.startswith(name):
            message = ours + message.removeprefix(name)
            break
    message = message.replace(*_REMEDY)
    name, separator, _ = message.partition(":")
    is_field = (
        separator
        and name.replace("_", "a").replace("[", "").replace("]", "").replace(".", "").isalnum()
    )
    return message, name if is_field else None

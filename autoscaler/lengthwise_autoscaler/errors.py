"""What keeps an autoscaler from deciding or acting.

Invariant: an error leaves scaling where it is, and is reported in the log, as an Event and by a
metric, each with the same reason.
"""

from typing import Literal, get_args

ErrorReason = Literal[
    "prometheus_unreachable",
    "query_failed",
    "data_missing",
    "data_stale",
    "data_implausible",
    "forbidden",
    "unknown_pool",
    "api_server_unreachable",
    "flip_failed",
    "unexpected",
]

ERROR_REASONS: tuple[ErrorReason, ...] = get_args(ErrorReason)

MAX_TEXT = 1000
"""Characters of a message, which may repeat what a server answered."""


class ScalingError(Exception):
    """Its text has what, got, expected and remedy; `pool` is empty where it concerns all, `query`
    where it is no query's answer that is wrong. It is one line, whatever a server answered."""

    def __init__(
        self, reason: ErrorReason, message: str, *, pool: str = "", query: str = ""
    ) -> None:
        text = f"query {query}: {message}" if query else message
        printable = (letter if letter.isprintable() else " " for letter in text[:MAX_TEXT])
        super().__init__("".join(printable))
        self.reason: ErrorReason = reason
        self.pool = pool
        self.query = query


class ApiServerRefused(ScalingError):
    """The API server answered, with a refusal."""

    def __init__(self, reason: ErrorReason, message: str, *, status: int) -> None:
        super().__init__(reason, message)
        self.status = status

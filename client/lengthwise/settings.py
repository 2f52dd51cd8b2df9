"""What is set about connections: time-outs, retries, certificates."""

import math
from dataclasses import dataclass
from pathlib import Path

from lengthwise_wire.errors import InvalidRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeout:
    """Time-outs in seconds.

    | total   | the whole request with all its retries; the server stops working on it too |
    | connect | until an endpoint sends its first message; then another is tried           |
    | silence | between messages, of which a router sends one a second at least; likewise  |
    """

    total: float = 600.0
    connect: float = 3.0
    silence: float = 3.0

    @classmethod
    def of(cls, value: "Timeout | float | None") -> "Timeout":
        """Itself, seconds in all, or the default. Errors: InvalidRequest."""
        if value is None or isinstance(value, Timeout):
            return value or cls()
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise InvalidRequest(f"timeout: got {value!r}, expected seconds or a Timeout")
        return cls(total=value)

    def __post_init__(self) -> None:
        for name in ("total", "connect", "silence"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise InvalidRequest(f"timeout.{name}: got {value!r}, expected seconds above 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """How often to try again after an error that may pass. Tries of a list of endpoints are counted
    in rounds through it, and waits, which double from `first_delay` to `max_delay` seconds with
    jitter, come between rounds."""

    attempts: int = 12
    """Rounds without a further token, of a request that has received none yet too: about 18
    seconds, in which a lost router is back."""
    first_delay: float = 0.1
    max_delay: float = 3.0

    @classmethod
    def of(cls, value: "Retry | None") -> "Retry":
        """Itself, or the default. Errors: InvalidRequest."""
        if not isinstance(value, Retry | None):
            raise InvalidRequest(f"retry: got {value!r}, expected a Retry")
        return value or cls()

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise InvalidRequest(f"retry.attempts: got {self.attempts!r}, expected at least 1")
        if not 0 < self.first_delay <= self.max_delay < math.inf:
            raise InvalidRequest(
                f"retry: got first_delay {self.first_delay!r} and max_delay {self.max_delay!r},"
                " expected 0 < first_delay <= max_delay"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """Files of PEM text. authority: the certificate authority (CA) of the servers; None: those
    that the system trusts.
    certificate and private_key, together: what this client shows."""

    authority: Path | None = None
    certificate: Path | None = None
    private_key: Path | None = None

    def __post_init__(self) -> None:
        if (self.certificate is None) != (self.private_key is None):
            raise InvalidRequest("tls: got one of certificate and private_key, expected both")

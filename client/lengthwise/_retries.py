"""When to retry, where, and after how long. No clock, no sleep, no randomness of its own.

An endpoint that failed is followed by the next one at once; only after a round through all of them
comes a wait, which doubles from round to round and is jittered, so that clients of a lost router do
not come back together.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from lengthwise.settings import Retry, Timeout
from lengthwise_wire.errors import DeadlineExceeded, LengthwiseError, NotSupported, RequestNotFound


class Rotation:
    """The endpoint that calls of one client go to: the last one that did not fail."""

    def __init__(self, num_endpoints: int) -> None:
        self.num_endpoints = num_endpoints
        self.current = 0

    def leave(self, endpoint: int) -> None:
        """Moves on, unless another call has done so already."""
        if self.current == endpoint:
            self.current = (endpoint + 1) % self.num_endpoints


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """The endpoint to call, and its time-outs: `patience.total` is what is left of the call's."""

    endpoint: int
    patience: Timeout


class Retries:
    """One call's way through attempts. Every `begin` is followed by at most one `fail`."""

    def __init__(
        self,
        *,
        retry: Retry,
        timeout: Timeout,
        rotation: Rotation,
        now: float,
        draw: Callable[[], float],
    ) -> None:
        """`draw` returns a number in [0, 1)."""
        self._retry = retry
        self._deadline = now + timeout.total
        self._timeout = timeout
        self._rotation = rotation
        self._draw = draw
        self._endpoint = 0
        self._failures = 0
        self._reasons: list[str] = []  # why attempts failed: the first, and the last

    def begin(self, now: float) -> Attempt:
        """Errors: DeadlineExceeded."""
        remaining = self._deadline - now
        if remaining <= 0:
            raise self._with_reason(
                DeadlineExceeded(f"the request did not finish within {self._timeout.total:g} s")
            )
        self._endpoint = self._rotation.current
        return Attempt(endpoint=self._endpoint, patience=replace(self._timeout, total=remaining))

    def progress(self) -> None:
        """A token arrived: failures are counted anew."""
        self._failures = 0

    def fail(self, error: LengthwiseError, now: float) -> float:
        """How many seconds to wait before the next `begin`.

        Errors: the given one, when it is final, or there is no try or no time left.
        """
        if isinstance(error, DeadlineExceeded):
            raise self._with_reason(error)
        if not error.retryable:
            raise error
        self._reasons = [*self._reasons[:1], str(error)]
        self._failures += 1
        self._rotation.leave(self._endpoint)
        rounds, failed_in_round = divmod(self._failures, self._rotation.num_endpoints)
        if rounds >= self._retry.attempts:
            raise error
        delay = 0.0 if failed_in_round else self._backoff(rounds)
        delay = max(delay, error.retry_after_seconds or 0.0)
        if now + delay >= self._deadline:
            raise error
        return delay

    def _with_reason(self, error: DeadlineExceeded) -> DeadlineExceeded:
        """Says what took the time before the last attempt."""
        reasons = "; then ".join(dict.fromkeys(self._reasons))
        return DeadlineExceeded(f"{error}; before: {reasons}") if reasons else error

    def _backoff(self, rounds: int) -> float:
        ceiling = min(self._retry.max_delay, self._retry.first_delay * 2.0 ** min(rounds - 1, 62))
        return ceiling * (0.5 + self._draw() / 2)


class Inquiry:
    """A call that only one of the endpoints can answer: each is asked once, until one does."""

    def __init__(self, *, timeout: Timeout, rotation: Rotation, now: float) -> None:
        self._deadline = now + timeout.total
        self._timeout = timeout
        self._first = rotation.current
        self._num_endpoints = rotation.num_endpoints
        self._num_asked = 0
        self._unanswered: LengthwiseError | None = None

    def begin(self, now: float) -> Attempt:
        """Errors: DeadlineExceeded."""
        remaining = self._deadline - now
        if remaining <= 0:
            raise DeadlineExceeded(f"no answer within {self._timeout.total:g} s")
        endpoint = (self._first + self._num_asked) % self._num_endpoints
        # A router answers at once: one that is silent must not take the time of the others.
        total = min(remaining, self._timeout.silence)
        return Attempt(endpoint=endpoint, patience=replace(self._timeout, total=total))

    def fail(self, error: LengthwiseError, now: float) -> float:
        """No wait before the next `begin`. Errors: the given one when it is final; after the last
        endpoint, of one that could not be asked rather than of one that does not know."""
        is_unanswered = error.retryable or isinstance(error, DeadlineExceeded | NotSupported)
        if not is_unanswered and not isinstance(error, RequestNotFound):
            raise error
        if is_unanswered:
            self._unanswered = error
        self._num_asked += 1
        if self._num_asked == self._num_endpoints:
            raise self._unanswered or error
        return 0.0

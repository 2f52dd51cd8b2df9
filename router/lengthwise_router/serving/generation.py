"""One request on its way: what is to be generated, what has been, and how long it may wait."""

import math
import time
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from lengthwise_router.serving.records import RequestRecord
from lengthwise_router.text.request import Request
from lengthwise_router.workers.prefixes import PromptHashes
from lengthwise_router.workers.wakeup import Wakeup
from lengthwise_wire.errors import DeadlineExceeded
from lengthwise_wire.v1 import common_pb2


class Tokens(NamedTuple):
    """Consecutive tokens of a request; `finish_reason` is 0 until the last of them."""

    first_index: int
    token_ids: list[int]
    logprobs: list[common_pb2.TokenLogprobs]
    finish_reason: common_pb2.FinishReason


class RequestDeadline:
    """How a request waits: it may be rung at any time, and it keeps its client's stream alive.

    With `ends_call` the wait itself ends at the deadline, between two writes: a write that is
    cancelled half-way leaves gRPC unable to end the call.
    """

    __slots__ = (
        "_deadline_at",
        "_ends_at",
        "_keepalive",
        "_keepalive_seconds",
        "_sent_at",
        "wakeup",
    )

    def __init__(
        self,
        *,
        wakeup: Wakeup,
        deadline_at: float,
        ends_call: bool,
        keepalive_seconds: float,
        keepalive: Callable[[], Awaitable[None]],
    ) -> None:
        self.wakeup = wakeup
        self._deadline_at = deadline_at
        self._ends_at = deadline_at if ends_call else math.inf
        self._keepalive_seconds = keepalive_seconds
        self._keepalive = keepalive
        self._sent_at = time.monotonic()

    @property
    def remaining_seconds(self) -> float:
        return self._deadline_at - time.monotonic()

    def sent(self, now: float) -> None:
        """A message has left for the client."""
        self._sent_at = now

    async def wait(self, until: float = float("inf")) -> float:
        """Returns the time when rung, or about `until` (monotonic clock), or earlier.

        Errors: DeadlineExceeded.
        """
        keepalive_at = self._sent_at + self._keepalive_seconds
        await self.wakeup.wait(min(until, keepalive_at, self._ends_at))
        now = time.monotonic()
        if now >= self._ends_at:
            raise DeadlineExceeded("no deadline was given, and the router's own has passed")
        if now >= keepalive_at:
            await self._keepalive()
            self._sent_at = now
        return now

    async def until_done(self, pending: Any, check: Callable[[], None] | None = None) -> None:
        """Returns when a call or future is done; cancels it when the wait ends otherwise.

        `check` is called whenever rung, and may raise.
        """
        pending.add_done_callback(self.wakeup.ring)
        try:
            while not pending.done():
                await self.wait()
                if check is not None:
                    check()
        finally:
            pending.cancel()


class Generation:
    """A request whose prompt is known, and the tokens generated for it so far."""

    __slots__ = (
        "deadline",
        "hashes",
        "max_tokens",
        "num_prompt_tokens",
        "prefill_seconds",
        "queue_seconds",
        "record",
        "request",
        "reserve_seconds",
        "retries",
        "token_ids",
    )

    def __init__(
        self,
        *,
        request: Request,
        prompt_ids: list[int],
        max_tokens: int,
        deadline: RequestDeadline,
        record: RequestRecord,
    ) -> None:
        self.request = request
        self.record = record
        self.hashes = PromptHashes()
        self.token_ids = [*prompt_ids, *request.resumed_token_ids]  # the whole sequence; grows
        self.num_prompt_tokens = len(prompt_ids)
        self.max_tokens = max_tokens
        self.deadline = deadline
        self.queue_seconds = 0.0
        self.prefill_seconds = 0.0
        self.reserve_seconds = 0.0
        self.retries = 0

    @property
    def num_generated(self) -> int:
        return len(self.token_ids) - self.num_prompt_tokens

    @property
    def num_remaining(self) -> int:
        return self.max_tokens - self.num_generated

    def finish_reason(self) -> common_pb2.FinishReason:
        """Why the request is over after the tokens it has, as far as tokens alone tell; else 0."""
        if not self.num_generated:
            return common_pb2.FINISH_REASON_UNSPECIFIED
        if self.token_ids[-1] in self.request.stop_token_ids:
            return common_pb2.FINISH_REASON_STOP
        if not self.num_remaining:
            return common_pb2.FINISH_REASON_LENGTH
        return common_pb2.FINISH_REASON_UNSPECIFIED

"""One Tokens stream per decode worker, fanned out to the requests that wait.

    DecodeWorker ══TokenBatch══▶ TokenFanOut ──rows──▶ TokenStream (one per reservation) ──▶ request

A row of an unknown reservation is ignored; an index seen before is dropped; a gap ends the attempt,
because what follows it would be a wrong answer. So does a message about the request that cannot be
true.
"""

import math
import time

from lengthwise_router.labels import StreamFailure
from lengthwise_router.workers.wakeup import Wakeup
from lengthwise_wire.v1 import common_pb2, decode_pb2


class TokenStream:
    """The tokens of one reservation that have come and not been taken yet."""

    def __init__(self, next_index: int, wakeup: Wakeup, *, local_tokens: int = 0) -> None:
        """`local_tokens`: how long the prompt is that the decode worker computes itself, else 0."""
        self._next_index = next_index
        self._local_tokens = local_tokens
        self._wakeup = wakeup
        self.token_ids: list[int] = []
        self.logprobs: list[common_pb2.TokenLogprobs] = []
        self.last_row_at: float | None = None
        self.alive_at = 0.0  # the last row, or sign that one will come later than others
        self.local_prefill: decode_pb2.LocalPrefill | None = None
        self.num_preemptions = 0
        self.ended: common_pb2.FinishReason | None = None
        self.failure: StreamFailure | None = None
        self.failure_details = ""

    def push(
        self, index: int, token_id: int, logprobs: common_pb2.TokenLogprobs | None, now: float
    ) -> None:
        if index != self._next_index:
            if index > self._next_index and self.failure is None:
                self.fail("gap", f"got token {index}, expected {self._next_index}")
            return
        self._next_index = index + 1
        if not self.token_ids:
            self._wakeup.ring()
        self.token_ids.append(token_id)
        if logprobs is not None:
            self.logprobs.append(logprobs)
        self.last_row_at = self.alive_at = now

    def computed(self, message: decode_pb2.LocalPrefill) -> None:
        """The decode worker has computed the prompt."""
        seconds = message.queue_seconds, message.prefill_seconds
        if not all(math.isfinite(each) and each >= 0 for each in seconds):
            self.fail("malformed", f"local prefill: got times of {seconds}, expected seconds")
        elif message.num_cached_tokens >= self._local_tokens:
            self.fail(
                "malformed",
                f"local prefill: got {message.num_cached_tokens} cached tokens of a prompt of"
                f" {self._local_tokens} that this worker was to compute",
            )
        else:
            self.local_prefill = message

    def preempted(self, now: float) -> None:
        """The worker took the request's blocks and will compute it again."""
        self.num_preemptions += 1
        self.alive_at = now

    def end(self, ended: decode_pb2.Ended) -> None:
        if ended.error or not ended.finish_reason:
            failure: StreamFailure = "refused" if ended.refused else "ended_with_error"
            self.fail(failure, ended.error or "without a reason")
            return
        self.ended = ended.finish_reason
        self._wakeup.ring()

    def fail(self, failure: StreamFailure, details: str) -> None:
        self.failure = failure
        self.failure_details = details
        self._wakeup.ring()

    def take(self) -> tuple[list[int], list[common_pb2.TokenLogprobs]]:
        taken = self.token_ids, self.logprobs
        self.token_ids, self.logprobs = [], []
        return taken


class TokenFanOut:
    """The token streams of one decode worker."""

    def __init__(self) -> None:
        self._streams: dict[int, TokenStream] = {}

    def add(self, reservation: int, stream: TokenStream) -> None:
        self._streams[reservation] = stream

    def remove(self, reservation: int) -> None:
        self._streams.pop(reservation, None)

    def deliver(self, batch: decode_pb2.TokenBatch) -> None:
        """Hands out what one engine step gave. Errors: ValueError when the columns of tokens differ
        in length."""
        now = time.monotonic()
        streams = self._streams
        logprobs = {row.row: row.logprobs for row in batch.logprobs}
        rows = zip(batch.reservations, batch.indices, batch.token_ids, strict=True)
        for row, (reservation, index, token_id) in enumerate(rows):
            if (stream := streams.get(reservation)) is not None:
                stream.push(index, token_id, logprobs.get(row), now)
        for local_prefill in batch.local_prefills:
            if (stream := streams.get(local_prefill.reservation)) is not None:
                stream.computed(local_prefill)
        for reservation in batch.preempted:
            if (stream := streams.get(reservation)) is not None:
                stream.preempted(now)
        for ended in batch.ended:
            if (stream := streams.get(ended.reservation)) is not None:
                stream.end(ended)

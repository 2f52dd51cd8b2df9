"""What the router tells of the requests it served last: decisions, their reasons, and the times
that came of them.

The rule: bounded, whatever clients and workers do. So many requests, so many attempts of each, so
many candidates of each attempt, texts cut; and nothing of a prompt or an output.
"""

from typing import Protocol

from lengthwise_policy.length_class import LENGTH_CLASSES, LengthClass, length_class
from lengthwise_policy.types import Candidate, Placement
from lengthwise_wire.errors import LengthwiseError
from lengthwise_wire.v1 import decode_pb2, inference_pb2, prefill_pb2

MAX_ATTEMPTS = 8
"""The first and the last ones of a request are kept."""

MAX_CANDIDATES = 5

MAX_TEXT_CHARACTERS = 200
"""Of a reason or an error message."""


class Failure(Protocol):
    """Why an attempt failed."""

    @property
    def phase(self) -> str: ...
    @property
    def reason(self) -> str: ...
    @property
    def error(self) -> LengthwiseError: ...


class _AttemptRecord:
    """What was decided, and what the workers told of it."""

    __slots__ = ("candidates", "told")

    def __init__(self, placement: Placement) -> None:
        self.candidates = placement.candidates[:MAX_CANDIDATES]
        self.told = inference_pb2.ExplainAttempt(
            prefill_worker=placement.prefill or "",
            decode_worker=placement.decode or "",
            placement_reason=_cut(placement.reason),
        )


class RequestRecord:
    """The life of one request, written down while it goes on."""

    __slots__ = ("_attempts", "_told", "cached_prompt_tokens", "length_class")

    def __init__(self, *, request_id: str, model: str, priority: int) -> None:
        self._told = inference_pb2.ExplainResponse(
            request_id=request_id, model=model, priority=priority
        )
        self._attempts: list[_AttemptRecord] = []
        self.length_class: LengthClass = "short"
        """Of the prompt, and from the first attempt on by the residual tokens at its worker."""
        self.cached_prompt_tokens: int | None = None
        """Of the attempt that gave the first token: nobody computed them for this request."""

    @property
    def request_id(self) -> str:
        return self._told.request_id

    def measured(self, *, prompt_tokens: int, max_tokens: int) -> None:
        """The prompt has been tokenised."""
        self._told.prompt_tokens = prompt_tokens
        self._told.max_tokens = max_tokens
        self.length_class = length_class(prompt_tokens)

    def admission(self, reason: str, seconds: float) -> None:
        """The router took the request, or refused it, after so long."""
        self._told.admission_reason = _cut(reason)
        self._told.admission_seconds = seconds

    def placed(self, placement: Placement) -> None:
        """An attempt begins."""
        attempt = _AttemptRecord(placement)
        if len(self._attempts) == MAX_ATTEMPTS:
            del self._attempts[MAX_ATTEMPTS // 2]
        self._attempts.append(attempt)
        if len(self._attempts) == 1:
            chosen = placement.chosen
            if chosen is not None:
                self.length_class = length_class(chosen.residual_tokens)

    def reserved(self, seconds: float, response: decode_pb2.ReserveResponse) -> None:
        """The decode worker has blocks for the request, after so long."""
        told = self._attempts[-1].told
        told.reserve_seconds = seconds
        told.reserve_reason = _cut(response.reason)
        told.cached_tokens_decode = response.num_cached_tokens

    def prefilled(self, response: prefill_pb2.PrefillResponse) -> None:
        """The prefill worker has computed the prompt."""
        told = self._attempts[-1].told
        told.prefill_reason = _cut(response.reason)
        told.queue_seconds = response.queue_seconds
        told.prefill_seconds = response.prefill_seconds
        told.cached_tokens_prefill = response.num_cached_tokens
        self._first_token(response.num_cached_tokens)
        if len(self._attempts) == 1:
            for name in LENGTH_CLASSES:
                if response.length_class == name:
                    self.length_class = name

    def local_prefill(self, message: decode_pb2.LocalPrefill) -> None:
        """The decode worker has computed the prompt itself."""
        told = self._attempts[-1].told
        told.prefill_reason = _cut(message.reason)
        told.queue_seconds = message.queue_seconds
        told.prefill_seconds = message.prefill_seconds
        told.cached_tokens_decode = message.num_cached_tokens
        self._first_token(message.num_cached_tokens)
        if len(self._attempts) == 1:
            residual = self._told.prompt_tokens - message.num_cached_tokens
            self.length_class = length_class(residual)

    def failed(self, failure: Failure) -> None:
        """The attempt is over."""
        self._attempts[-1].told.failure = _cut(
            f"{failure.phase}: {failure.reason}: {failure.error}"
        )

    def preempted(self) -> None:
        """The request lost its blocks at the decode worker, and is computed again."""
        self._told.end.preemptions += 1

    def timed(self, timings: inference_pb2.PhaseTimings, output_tokens: int) -> None:
        """Where the time went, as far as the request came."""
        self._told.output_tokens = output_tokens
        self._told.end.timings.CopyFrom(timings)

    def ended(self, code: str, seconds: float) -> None:
        """`code` is the name of a gRPC status; `seconds` have passed since the request arrived."""
        end = self._told.end
        end.code = code
        end.cached_prompt_tokens = self.cached_prompt_tokens or 0
        if code != "OK":
            end.timings.total_seconds = seconds

    def told(self) -> inference_pb2.ExplainResponse:
        """All of it, as a message of its own. While the request goes on, `end` is not set."""
        message = inference_pb2.ExplainResponse()
        message.CopyFrom(self._told)
        if not message.end.code:
            message.ClearField("end")
        message.length_class = self.length_class
        for attempt in self._attempts:
            told = message.attempts.add()
            told.CopyFrom(attempt.told)
            told.candidates.extend(map(_candidate, attempt.candidates))
        return message

    def _first_token(self, num_cached_tokens: int) -> None:
        # Whatever is computed after the first token was computed for this request before.
        if self.cached_prompt_tokens is None:
            self.cached_prompt_tokens = min(num_cached_tokens, self._told.prompt_tokens)


class RequestRecords:
    """Those of the last requests."""

    def __init__(self, max_requests: int) -> None:
        self._max_requests = max_requests
        self._by_id: dict[str, RequestRecord] = {}

    def add(self, record: RequestRecord) -> None:
        """Keeps it, and forgets what is too much. Of several requests with one id the last is
        kept."""
        kept = self._by_id
        kept.pop(record.request_id, None)
        kept[record.request_id] = record
        if len(kept) > self._max_requests:
            del kept[next(iter(kept))]

    def find(self, request_id: str) -> inference_pb2.ExplainResponse | None:
        record = self._by_id.get(request_id)
        return record.told() if record is not None else None


def _candidate(candidate: Candidate) -> inference_pb2.ExplainCandidate:
    return inference_pb2.ExplainCandidate(
        prefill_worker=candidate.prefill or "",
        decode_worker=candidate.decode or "",
        residual_tokens=candidate.residual_tokens,
        queue_seconds=candidate.queue_seconds,
        prefill_seconds=candidate.prefill_seconds,
        transfer_seconds=candidate.transfer_seconds,
        time_to_first_token_seconds=candidate.ttft_seconds,
    )


def _cut(text: str) -> str:
    return text if len(text) <= MAX_TEXT_CHARACTERS else f"{text[: MAX_TEXT_CHARACTERS - 1]}…"

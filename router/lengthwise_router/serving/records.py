"""What the router remembers of the last requests, for debugging alone: decisions, their reasons,
and the times that came of them.

Invariant: a record is bounded, whatever clients and workers do (requests, attempts of each,
candidates of each attempt, lengths of texts), and holds nothing of a prompt or an output.
"""

from collections import OrderedDict

from lengthwise_policy.length_class import LengthClass
from lengthwise_policy.placement.placement import Candidate, Placement
from lengthwise_router.serving.failures import AttemptFailed
from lengthwise_wire.v1 import decode_pb2, inference_pb2, prefill_pb2

MAX_ATTEMPTS = 8
"""The first and the last ones of a request are kept."""

MAX_CANDIDATES = 5

MAX_SHARE = 0.25
"""A tenant with more of the records than this forgets its own first, and no other tenant's."""

MAX_TEXT_CHARACTERS = 200
"""Of a reason or an error message."""


class _AttemptRecord:
    """What was decided, and what the workers reported of it."""

    __slots__ = ("candidates", "message", "rule")

    def __init__(self, placement: Placement) -> None:
        self.rule = placement.rule
        self.candidates = placement.candidates[:MAX_CANDIDATES]
        self.message = inference_pb2.ExplainAttempt(
            prefill_worker=placement.prefill or "",
            decode_worker=placement.decode or "",
            placement_reason=_cut(placement.reason),
        )


class RequestRecord:
    """The life of one request, written down while it goes on."""

    __slots__ = ("_attempts", "_message", "tenant", "user")

    def __init__(
        self, *, request_id: str, tenant: str, model: str, priority: int, user: str = ""
    ) -> None:
        """`user`: whom the caller says that it asks for."""
        self.tenant = tenant
        self.user = user
        self._message = inference_pb2.ExplainResponse(
            request_id=request_id, model=model, priority=priority, length_class="short"
        )
        self._attempts: list[_AttemptRecord] = []

    @property
    def request_id(self) -> str:
        return self._message.request_id

    @property
    def model(self) -> str:
        return self._message.model

    @property
    def rule(self) -> str:
        """That placed the last attempt; empty before the first."""
        return self._attempts[-1].rule if self._attempts else ""

    def measured(self, prompt_tokens: int, max_tokens: int, length_class: LengthClass) -> None:
        """The prompt has been tokenised."""
        self._message.prompt_tokens = prompt_tokens
        self._message.max_tokens = max_tokens
        self._message.length_class = length_class

    def limited(self, max_tokens: int) -> None:
        """No more than so many tokens fit."""
        self._message.max_tokens = max_tokens

    def classified(self, length_class: LengthClass) -> None:
        """The first attempt has shown how much of the prompt is cached."""
        self._message.length_class = length_class

    def admission(self, reason: str, seconds: float) -> None:
        """The router has decided about the request, after so long."""
        self._message.admission_reason = _cut(reason)
        self._message.admission_seconds = seconds

    def placed(self, placement: Placement) -> None:
        """An attempt begins."""
        if len(self._attempts) == MAX_ATTEMPTS:
            del self._attempts[MAX_ATTEMPTS // 2]
        self._attempts.append(_AttemptRecord(placement))

    def reserved(self, seconds: float, response: decode_pb2.ReserveResponse) -> None:
        """The decode worker has blocks for the request, after so long."""
        message = self._attempts[-1].message
        message.reserve_seconds = seconds
        message.reserve_reason = _cut(response.reason)
        message.cached_tokens_decode = response.num_cached_tokens

    def prefilled(self, report: prefill_pb2.PrefillResponse | decode_pb2.LocalPrefill) -> None:
        """A worker has computed the prompt."""
        message = self._attempts[-1].message
        message.prefill_reason = _cut(report.reason)
        message.queue_seconds = report.queue_seconds
        message.prefill_seconds = report.prefill_seconds
        if isinstance(report, prefill_pb2.PrefillResponse):
            message.cached_tokens_prefill = report.num_cached_tokens
        else:
            message.cached_tokens_decode = report.num_cached_tokens

    def failed(self, failure: AttemptFailed) -> None:
        """The attempt is over."""
        self._attempts[-1].message.failure = _cut(
            f"{failure.phase}: {failure.reason}: {failure.error}"
        )

    def preempted(self) -> None:
        """The request lost its blocks at the decode worker, and is computed again."""
        self._message.end.preemptions += 1

    def timed(
        self, timings: inference_pb2.PhaseTimings, *, output_tokens: int, cached_prompt_tokens: int
    ) -> None:
        """Where the time went, as far as the request came."""
        self._message.output_tokens = output_tokens
        self._message.end.cached_prompt_tokens = cached_prompt_tokens
        self._message.end.timings.CopyFrom(timings)

    def ended(self, code: str, seconds: float) -> None:
        """`code` is the name of a gRPC status; `seconds` have passed since the request arrived."""
        self._message.end.code = code
        if code != "OK":
            self._message.end.timings.total_seconds = seconds

    def explanation(self) -> inference_pb2.ExplainResponse:
        """All of it, as a message of its own. While the request goes on, `end` is not set."""
        message = inference_pb2.ExplainResponse()
        message.CopyFrom(self._message)
        if not message.end.code:
            message.ClearField("end")
        for record in self._attempts:
            attempt = message.attempts.add()
            attempt.CopyFrom(record.message)
            attempt.candidates.extend(map(_candidate, record.candidates))
        return message


class RequestRecords:
    """The records of the last requests, each its tenant's own."""

    def __init__(self, max_requests: int) -> None:
        self._max_requests = max_requests
        # By tenant, model and id, and the models and ids of each tenant; all the oldest first.
        self._records: OrderedDict[tuple[str, str, str], RequestRecord] = OrderedDict()
        self._own: dict[str, OrderedDict[tuple[str, str], None]] = {}

    def add(self, record: RequestRecord) -> None:
        """Of several requests of one tenant to one model with one id the last is kept."""
        tenant, name = record.tenant, (record.model, record.request_id)
        if (tenant, *name) in self._records:
            self._forget(tenant, *name)
        self._records[tenant, *name] = record
        own = self._own.setdefault(tenant, OrderedDict())
        own[name] = None
        if len(self._records) <= self._max_requests:
            return
        if len(own) > MAX_SHARE * self._max_requests:
            self._forget(tenant, *next(iter(own)))
        else:
            self._forget(*next(iter(self._records)))

    def find(
        self, tenant: str, model: str, request_id: str
    ) -> inference_pb2.ExplainResponse | None:
        record = self._records.get((tenant, model, request_id))
        return record.explanation() if record is not None else None

    def _forget(self, tenant: str, model: str, request_id: str) -> None:
        del self._records[tenant, model, request_id]
        del self._own[tenant][model, request_id]
        if not self._own[tenant]:
            del self._own[tenant]


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

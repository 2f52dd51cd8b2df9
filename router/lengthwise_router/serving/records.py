"""What the router remembers of the last requests, for debugging alone: decisions, their reasons,
and the times that came of them.

Invariant: a record is bounded, whatever clients and workers do (requests, attempts of each,
candidates of each attempt, lengths of texts), and holds nothing of a prompt or an output.
"""

import time
from collections import OrderedDict
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from lengthwise_policy.length_class import LengthClass
from lengthwise_policy.placement.placement import Candidate, Placement
from lengthwise_router.serving.failures import AttemptFailed
from lengthwise_wire.v1 import decode_pb2, inference_pb2, prefill_pb2

if TYPE_CHECKING:  # its extra need not be installed
    from lengthwise_runtime.tracing.tracer import TracedSpan

MAX_ATTEMPTS = 8
"""The first and the last ones of a request are kept."""

MAX_CANDIDATES = 5

MAX_SHARE = 0.25
"""A tenant with more of the records than this forgets its own first, and no other tenant's."""

MAX_TEXT_CHARACTERS = 200
"""Of a reason or an error message."""


class TracedPhase(NamedTuple):
    """Of a request that is traced. Times are of the monotonic clock."""

    name: str
    began_at: float
    ended_at: float
    error: str


class _AttemptRecord:
    """What was decided, and what the workers reported of it."""

    __slots__ = ("candidates", "message", "phases", "rule")

    def __init__(self, placement: Placement) -> None:
        self.rule = placement.rule
        self.phases: list[TracedPhase] = []
        self.candidates = placement.candidates[:MAX_CANDIDATES]
        self.message = inference_pb2.ExplainAttempt(
            prefill_worker=placement.prefill or "",
            decode_worker=placement.decode or "",
            placement_reason=_cut(placement.reason),
        )

    @property
    def next_phase(self) -> str:
        """What begins when the last phase is over."""
        last, message = self.phases[-1].name, self.message
        if last == "placement" and message.decode_worker:
            return "reserve"
        if last in ("placement", "reserve"):
            return "prefill"
        is_sent = message.decode_worker and message.prefill_worker
        return "transfer" if last == "prefill" and is_sent else "decode"


class RequestRecord:
    """The life of one request, written down while it goes on."""

    __slots__ = (
        "_attempts",
        "_message",
        "_phase_began_at",
        "_phases",
        "model",
        "span",
        "tenant",
        "user",
    )

    def __init__(
        self,
        *,
        request_id: str,
        tenant: str,
        model: str,
        priority: int,
        shown_as: str = "",
        user: str = "",
        span: "TracedSpan | None" = None,
        arrived_at: float = 0.0,
    ) -> None:
        """`shown_as`: the model with its adapter, unless it has none. `user`: whom the caller says
        that it asks for. `span`: of the request, while it goes on,
        where it is traced; then its phases are kept too."""
        self.span = span
        self._phase_began_at = arrived_at
        self._phases: list[TracedPhase] = []
        self.model = model
        self.tenant = tenant
        self.user = user
        self._message = inference_pb2.ExplainResponse(
            request_id=request_id,
            model=shown_as or model,
            priority=priority,
            length_class="short",
        )
        self._attempts: list[_AttemptRecord] = []

    @property
    def request_id(self) -> str:
        return self._message.request_id

    @property
    def rule(self) -> str:
        """That placed the last attempt; empty before the first."""
        return self._attempts[-1].rule if self._attempts else ""

    def measured(self, prompt_tokens: int, max_tokens: int, length_class: LengthClass) -> None:
        """The prompt has been tokenised."""
        self._message.prompt_tokens = prompt_tokens
        self._message.max_tokens = max_tokens
        self._message.length_class = length_class
        self._phase_ended("tokenise")

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
        self._phase_ended("queue")

    def placed(self, placement: Placement) -> None:
        """An attempt begins."""
        if len(self._attempts) == MAX_ATTEMPTS:
            del self._attempts[MAX_ATTEMPTS // 2]
        self._attempts.append(_AttemptRecord(placement))
        self._phase_ended("placement")

    def reserved(self, seconds: float, response: decode_pb2.ReserveResponse) -> None:
        """The decode worker has blocks for the request, after so long."""
        message = self._attempts[-1].message
        message.reserve_seconds = seconds
        message.reserve_reason = _cut(response.reason)
        message.cached_tokens_decode = response.num_cached_tokens
        self._phase_ended("reserve")

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
        self._phase_ended("prefill")

    def transferred(self, seconds: float) -> None:
        """The decode worker has gone on, so long after the prompt was computed."""
        self._attempts[-1].message.transfer_seconds = seconds
        self._phase_ended("transfer")

    def failed(self, failure: AttemptFailed) -> None:
        """The attempt is over."""
        told = _cut(f"{failure.phase}: {failure.reason}: {failure.error}")
        self._attempts[-1].message.failure = told
        self._phase_ended(failure.phase, told)

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
        if self.span is not None and (code != "OK" or self._phase == "decode"):
            self._phase_ended(self._phase, "" if code == "OK" else code)

    def take_phases(self) -> Iterator[tuple[TracedPhase, inference_pb2.ExplainAttempt | None]]:
        """Of a request that is traced, with the attempt that each belongs to; in order, once."""
        yield from ((phase, None) for phase in self._phases)
        self._phases = []
        for attempt in self._attempts:
            yield from ((phase, attempt.message) for phase in attempt.phases)
            attempt.phases = []

    @property
    def _phase(self) -> str:
        """That goes on."""
        if self._attempts:
            is_over = self._attempts[-1].phases and self._attempts[-1].phases[-1].error
            return "placement" if is_over else self._attempts[-1].next_phase
        names = [phase.name for phase in self._phases]
        return "placement" if "queue" in names else "queue" if names else "tokenise"

    def _phase_ended(self, name: str, error: str = "") -> None:
        if self.span is None:
            return
        kept = self._attempts[-1].phases if self._attempts else self._phases
        began_at, self._phase_began_at = self._phase_began_at, time.monotonic()
        if kept and kept[-1].name == name:  # it went on after all
            began_at = kept.pop().began_at
        kept.append(TracedPhase(name, began_at, self._phase_began_at, error))

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

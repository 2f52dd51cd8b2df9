"""The PrefillWorker service: one coroutine is one request's life here."""

import asyncio
import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import grpc

from lengthwise_engine.runner.sampler import NO_TOKEN, NO_TOKEN_TEXT
from lengthwise_engine.sampling.grammar import GrammarState, refusal_of
from lengthwise_policy.kv.prefix_cache import block_hashes
from lengthwise_policy.prefill.queue import PrefillJob
from lengthwise_policy.spreading import exceeds
from lengthwise_policy.types import RequestId
from lengthwise_prefill_worker.kv.send import KVSend
from lengthwise_prefill_worker.messages import Command, Computed, Outcome, PrefillWork
from lengthwise_prefill_worker.metrics import PrefillMetrics
from lengthwise_runtime.mailbox import Mailbox
from lengthwise_wire.convert import logprobs_to_wire
from lengthwise_wire.errors import (
    DeadlineExceeded,
    InternalError,
    InvalidRequest,
    LengthwiseError,
    NoWorkerAvailable,
)
from lengthwise_wire.v1 import common_pb2, prefill_pb2, prefill_pb2_grpc
from lengthwise_worker.adapters.lease import AdapterLease
from lengthwise_worker.engine import Engine
from lengthwise_worker.messages import RequestExpired
from lengthwise_worker.requests import check_request, refuse, salt_of, sampling_state

if TYPE_CHECKING:  # its extra need not be installed
    from lengthwise_runtime.tracing.tracer import Facts, TracedSpan, Tracer

Context = grpc.aio.ServicerContext[Any, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class _PendingCall:
    """A call that waits for its first token."""

    computed: asyncio.Future[Computed]
    stop_token_ids: frozenset[int]
    grammar: GrammarState | None

    def fail(self, error: LengthwiseError) -> None:
        refuse(self.computed, error)


class PrefillService(prefill_pb2_grpc.PrefillWorkerServicer):
    """Checks, opens the link, hands the work to the engine, and waits for the first token."""

    def __init__(
        self,
        engine: Engine,
        *,
        mailbox: Mailbox[Command],
        send: KVSend,
        metrics: PrefillMetrics,
        queued_tokens: Callable[[], int],
        max_seconds: float,
        tracer: "Tracer | None" = None,
    ) -> None:
        """`queued_tokens`: that the engine has, as its status tells. `max_seconds`: the longest
        deadline."""
        self._queued_tokens = queued_tokens
        self._tracer = tracer
        self._max_seconds = max_seconds
        self._spec = engine.model.spec
        self._grammars = engine.grammars
        self._adapters = engine.adapters
        self._mailbox = mailbox
        self._send = send
        self._metrics = metrics
        self._block_size = engine.model.shards.layout.block_size
        self._fingerprint = engine.model.fingerprint
        self._pending: dict[RequestId, _PendingCall] = {}
        self._numbers = itertools.count()
        self.draining = False

    @property
    def num_pending(self) -> int:
        return len(self._pending)

    async def Prefill(
        self, request: prefill_pb2.PrefillRequest, context: Context
    ) -> prefill_pb2.PrefillResponse:
        if self.draining:
            raise NoWorkerAvailable("this prefill worker is draining; try another one")
        check_request(request, self._spec)
        check_destination(request.destination, len(request.token_ids), self._block_size)
        if request.HasField("most_tokens_ahead"):
            tokens_ahead = self._tokens_ahead()
            if exceeds(tokens_ahead, request.most_tokens_ahead):
                return prefill_pb2.PrefillResponse(tokens_ahead=tokens_ahead)
        grammar = await self._grammars.state(request.grammar)
        adapter = await self._adapters.lease(request.adapter)
        # Two attempts at one request may meet here: the engine knows them by different names.
        request_id = RequestId(f"{request.request_id}#{next(self._numbers)}")
        most = self._max_seconds
        seconds = min(context.time_remaining() or most, most)
        pending = _PendingCall(
            computed=asyncio.get_running_loop().create_future(),
            stop_token_ids=frozenset(request.stop_token_ids),
            grammar=grammar,
        )
        self._pending[request_id] = pending
        sent = request.HasField("destination")
        goes_on = False
        span = None
        if self._tracer is not None:
            span = self._tracer.begin("prefill worker", context.invocation_metadata() or ())
        computed = None
        try:
            if sent:
                await self._send.open(
                    request_id, request.destination, request.epoch, pending.fail, span
                )
            self._mailbox.post(self._work(request, request_id, grammar, adapter, seconds))
            async with asyncio.timeout(seconds):
                computed = await pending.computed
            goes_on = computed.token.token_id not in pending.stop_token_ids
            return self._response(request, computed, goes_on)
        except TimeoutError as error:
            raise DeadlineExceeded(f"no first token within {seconds:.3f} s") from error
        finally:
            del self._pending[request_id]
            if span is not None:
                _end_span(span, request, computed)
            # What is being sent is released by its commit.
            if not (sent and goes_on):
                self._send.cancel(request_id)

    def _tokens_ahead(self) -> int:
        """Of prompts that are queued, and of those that the engine has not looked at yet."""
        waiting = self._mailbox.waiting()
        come = sum(each.job.num_tokens for each in waiting if isinstance(each, PrefillWork))
        return self._queued_tokens() + come

    def on_outcomes(self, outcomes: Sequence[Outcome]) -> None:
        """What the engine thread hands over once per step; runs on the event loop."""
        for outcome in outcomes:
            pending = self._pending.get(outcome.request_id)
            if pending is None or pending.computed.done():
                # The caller is gone, or the link failed; either has released the request.
                continue
            if isinstance(outcome, Computed) and outcome.token.token_id == NO_TOKEN:
                reason = refusal_of(pending.grammar)
                pending.fail(InvalidRequest(reason) if reason else InternalError(NO_TOKEN_TEXT))
            elif isinstance(outcome, Computed):
                pending.computed.set_result(outcome)
                if outcome.token.token_id not in pending.stop_token_ids:
                    self._send.computed(outcome.request_id, outcome.token.token_id)
            elif isinstance(outcome, RequestExpired):
                pending.fail(DeadlineExceeded("the deadline passed before the first token"))
            else:
                pending.fail(outcome.as_error())

    def _response(
        self, request: prefill_pb2.PrefillRequest, computed: Computed, goes_on: bool
    ) -> prefill_pb2.PrefillResponse:
        self._metrics.first_token(computed, len(request.token_ids))
        response = prefill_pb2.PrefillResponse(
            token_id=computed.token.token_id,
            queue_seconds=computed.queue_seconds,
            prefill_seconds=computed.prefill_seconds,
            num_cached_tokens=computed.num_cached_tokens,
            length_class=computed.length,
            reason=computed.reason,
        )
        if not goes_on:
            response.finish_reason = common_pb2.FINISH_REASON_STOP
        if computed.token.logprob is not None:
            response.logprobs.CopyFrom(
                logprobs_to_wire(computed.token.logprob, computed.token.top_logprobs)
            )
        return response

    def _work(
        self,
        request: prefill_pb2.PrefillRequest,
        request_id: RequestId,
        grammar: GrammarState | None,
        adapter: AdapterLease | None,
        seconds: float,
    ) -> PrefillWork:
        now = time.monotonic()
        token_ids = list(request.token_ids)
        salt = salt_of(request, self._fingerprint)
        sent = request.HasField("destination")
        return PrefillWork(
            job=PrefillJob(
                request_id=request_id,
                num_tokens=len(token_ids),
                arrived_at=now,
                deadline_at=now + seconds,
                hashes=tuple(block_hashes(token_ids, self._block_size, salt)),
                priority=request.priority,
                returning=request.conversation_returns,
            ),
            sampling=sampling_state(request, token_ids, grammar),
            sent_from=request.destination.num_cached_tokens if sent else None,
            adapter=adapter,
        )


def _end_span(
    span: "TracedSpan", request: prefill_pb2.PrefillRequest, computed: Computed | None
) -> None:
    """With a span below it for each phase, once there is a first token."""
    now = time.monotonic()
    if computed is None:
        span.end(now, {"request_id": request.request_id}, "no first token")
        return
    began_at = now - computed.prefill_seconds
    span.child("queue", began_at - computed.queue_seconds, began_at)
    span.child("compute", began_at, now)
    facts: Facts = {
        "request_id": request.request_id,
        "tokens": len(request.token_ids),
        "cached_tokens": computed.num_cached_tokens,
        "length_class": computed.length,
    }
    span.end(now, facts)


def check_destination(
    destination: prefill_pb2.KVDestination, num_tokens: int, block_size: int
) -> None:
    """Raises InvalidRequest unless whole blocks are there and the last token is not.

    So something is always computed, and at least one block is sent.
    """
    cached = destination.num_cached_tokens
    if cached % block_size or cached >= num_tokens:
        raise InvalidRequest(
            f"destination.num_cached_tokens: got {cached}, expected a multiple of {block_size} "
            f"below the {num_tokens} tokens of the prompt"
        )

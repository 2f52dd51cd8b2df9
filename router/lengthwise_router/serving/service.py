"""The life of one request, top to bottom, as one generator that knows no transport."""

import asyncio
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, contextmanager

from lengthwise_policy.length_class import length_class
from lengthwise_router.config import RouterConfig
from lengthwise_router.metrics import RouterMetrics
from lengthwise_router.serving.admission_gate import AdmissionGate
from lengthwise_router.serving.deadline import Keepalive, RequestDeadline
from lengthwise_router.serving.dispatch import Dispatch
from lengthwise_router.serving.generation import Generation
from lengthwise_router.serving.records import RequestRecord, RequestRecords
from lengthwise_router.serving.reply import Reply
from lengthwise_router.serving.request_log import RequestLog
from lengthwise_router.serving.status import StatusReport
from lengthwise_router.tenants import UNKNOWN, Caller, Tenants
from lengthwise_router.text.checkpoint import Checkpoint
from lengthwise_router.text.request import Request, check_model, fit, read_request
from lengthwise_router.text.tokenization import PromptEncoder
from lengthwise_router.text.vocabulary import Vocabulary
from lengthwise_router.workers.fleet import Fleet
from lengthwise_router.workers.wakeup import Wakeups
from lengthwise_wire.convert import sampling_to_wire
from lengthwise_wire.errors import (
    Cancelled,
    DeadlineExceeded,
    InternalError,
    LengthwiseError,
    NoWorkerAvailable,
    RequestNotFound,
)
from lengthwise_wire.limits import check_request_id, check_tenant
from lengthwise_wire.v1 import inference_pb2

MAX_DEADLINE_SECONDS = 86_000.0
"""Leases at decode workers last a day at most."""

INLINE_TOKENS = 4_096
"""Where an answer begins after more tokens is found in a thread: a prompt that ends with 131,072
byte tokens takes 0.3 s."""


class InferenceService:
    """What clients ask for, however they are connected. Errors: LengthwiseError, everywhere."""

    def __init__(
        self,
        *,
        checkpoint: Checkpoint,
        encoder: PromptEncoder,
        gate: AdmissionGate,
        dispatch: Dispatch,
        fleet: Fleet,
        wakeups: Wakeups,
        metrics: RouterMetrics,
        config: RouterConfig,
    ) -> None:
        self._checkpoint = checkpoint
        self._vocabulary = Vocabulary(checkpoint.tokenizer)
        self._encoder = encoder
        self._gate = gate
        self._dispatch = dispatch
        self._fleet = fleet
        self._wakeups = wakeups
        self._metrics = metrics
        self._status = StatusReport(model=checkpoint.name, fleet=fleet, metrics=metrics)
        self._config = config
        self._records = RequestRecords(config.explained_requests)
        self._log = RequestLog(config.request_log_level)
        self._tenants = Tenants(gateways=config.gateways, separate=config.separate_tenants)
        self.draining = False

    async def generate(
        self,
        message: inference_pb2.GenerateRequest,
        *,
        deadline_seconds: float,
        keepalive: Keepalive,
        caller: Caller = UNKNOWN,
    ) -> AsyncGenerator[inference_pb2.GenerateResponse]:
        """The responses to one request, each as soon as the one before it is taken; the last has a
        finish reason.

        `keepalive` is awaited while nothing comes, once per `keepalive_seconds`. A caller that has
        gone closes the generator (`contextlib.aclosing`) or cancels the task that reads it: what
        the request holds is given back at once.
        """
        deadline = RequestDeadline(
            wakeup=self._wakeups.new(),
            seconds=min(deadline_seconds, MAX_DEADLINE_SECONDS),
            keepalive_seconds=self._config.keepalive_seconds,
            keepalive=keepalive,
        )
        with self._accepted(message, caller, deadline) as (request, record):
            prompt_ids = await self._tokenised(message.prompt, deadline)
            del message  # up to 5 MiB, that nobody needs any more
            generation = Generation(
                request=request,
                prompt_ids=prompt_ids,
                max_tokens=fit(request, len(prompt_ids), self._checkpoint),
                deadline=deadline,
                record=record,
            )
            await self._dispatch.check_capacity(generation)
            await self._count_arrival(generation)
            reply = await self._new_reply(generation)
            ticket = await self._gate.enter(generation)
            try:
                response = reply.resume()
                if response is not None:
                    yield response
                    return
                async with aclosing(self._dispatch.tokens(generation)) as stream:
                    async for tokens in stream:
                        response = reply.append(tokens)
                        self._gate.generated(ticket, len(response.token_ids))
                        yield response
                        deadline.sent(time.monotonic())
                        if response.finish_reason:
                            return
            finally:
                reply.record()
                self._gate.leave(ticket)

    async def tokenize(
        self, message: inference_pb2.TokenizeRequest
    ) -> inference_pb2.TokenizeResponse:
        check_model(message.model, self._checkpoint)
        token_ids = self._encoder.encode(message.prompt)
        if isinstance(token_ids, asyncio.Future):
            token_ids = await token_ids
        return inference_pb2.TokenizeResponse(token_ids=token_ids)

    @property
    def context_length(self) -> int:
        """In tokens: no list of them that is accepted has more."""
        return self._checkpoint.context_length

    def model(self) -> inference_pb2.GetModelResponse:
        checkpoint, capacity = self._checkpoint, self._fleet.capacity_tokens
        context = min(checkpoint.context_length, capacity + 1) if capacity else None
        sampling = sampling_to_wire(checkpoint.default_sampling)
        sampling.ClearField("seed")
        return inference_pb2.GetModelResponse(
            model=checkpoint.name,
            context_length=context or checkpoint.context_length,
            vocab_size=checkpoint.vocab_size,
            eos_token_ids=checkpoint.eos_token_ids,
            has_chat_template=self._encoder.has_chat_template,
            model_fingerprint=self._fleet.model_fingerprint,
            default_sampling=sampling,
            capacity_tokens=capacity,
        )

    def explain(
        self, message: inference_pb2.ExplainRequest, caller: Caller = UNKNOWN
    ) -> inference_pb2.ExplainResponse:
        request_id = check_request_id(message.request_id)
        tenant = self._tenants.of(caller, check_tenant(message.tenant))
        response = self._records.find(tenant.name, request_id)
        if response is None:
            raise RequestNotFound(
                f"request_id: got {message.request_id!r}, expected one of the last"
                f" {self._config.explained_requests} requests of this router, and of the tenant"
                " that asks; other routers remember their own"
            )
        return response

    def status(self) -> inference_pb2.GetStatusResponse:
        return self._status.report(
            draining=self.draining,
            in_flight=self._gate.in_flight + self._gate.num_waiting,
            waiting=self._gate.num_waiting,
        )

    async def idle(self, timeout_seconds: float) -> None:
        """Returns when no request is in flight, or after the time-out."""
        give_up_at = time.monotonic() + timeout_seconds
        while self._gate.in_flight and time.monotonic() < give_up_at:  # noqa: ASYNC110
            await asyncio.sleep(0.02)

    @contextmanager
    def _accepted(
        self, message: inference_pb2.GenerateRequest, caller: Caller, deadline: RequestDeadline
    ) -> Iterator[tuple[Request, RequestRecord]]:
        """Reads a request; counts it, and how it ends."""
        code = "OK"
        record: RequestRecord | None = None
        self._metrics.in_flight.inc()
        try:
            if self.draining:
                raise NoWorkerAvailable("this router is draining; try another one")
            tenant = self._tenants.of(caller, check_tenant(message.tenant))
            request = read_request(message, self._checkpoint, tenant)
            del message
            record = RequestRecord(
                request_id=request.request_id,
                tenant=request.tenant,
                model=self._checkpoint.name,
                priority=request.priority,
            )
            self._records.add(record)
            yield request, record
        except LengthwiseError as error:
            code = error.status.name
            raise
        except (asyncio.CancelledError, GeneratorExit):
            ending = DeadlineExceeded if deadline.has_passed else Cancelled
            code = ending.status.name
            raise
        except BaseException:
            code = InternalError.status.name
            raise
        finally:
            self._metrics.in_flight.dec()
            self._metrics.request_ended(code)
            if record is not None:
                record.ended(code, time.monotonic() - deadline.arrived_at)
                self._log.ended(record)

    async def _tokenised(
        self, prompt: inference_pb2.Prompt, deadline: RequestDeadline
    ) -> list[int]:
        token_ids = self._encoder.encode(prompt)
        if isinstance(token_ids, asyncio.Future):
            await deadline.until_done(token_ids)
            return token_ids.result()
        return token_ids

    async def _new_reply(self, generation: Generation) -> Reply:
        if len(generation.token_ids) <= INLINE_TOKENS:
            return Reply(generation, self._vocabulary, self._metrics)
        return await asyncio.to_thread(Reply, generation, self._vocabulary, self._metrics)

    async def _count_arrival(self, generation: Generation) -> None:
        """Demand is measured before anything holds a request back: what is served saturates."""
        token_ids = generation.token_ids
        cached = await self._fleet.prefixes.cached_tokens(token_ids, generation.prefix)
        residual = max(len(token_ids) - max(cached.values(), default=0), 1)
        self._metrics.arrived(length_class(residual, self._fleet.short_tokens), residual)

"""The life of one request, top to bottom, as one generator that knows no transport."""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Sequence
from contextlib import aclosing, contextmanager
from typing import TYPE_CHECKING

from lengthwise_router.config import RouterConfig
from lengthwise_router.fleet_metrics import FleetMetrics
from lengthwise_router.keys.keyring import AUTHORIZATION, Keyring
from lengthwise_router.serving.deadline import Keepalive, RequestDeadline, in_time
from lengthwise_router.serving.generation import Generation
from lengthwise_router.serving.models.served_model import ServedModel
from lengthwise_router.serving.models.served_models import ServedModels
from lengthwise_router.serving.records import RequestRecord, RequestRecords
from lengthwise_router.serving.request_log import RequestLog, end_span
from lengthwise_router.serving.status import StatusReport
from lengthwise_router.tenants import UNKNOWN, Caller, Header, Tenants
from lengthwise_router.text.request import Request, fit, read_request
from lengthwise_router.text.sandbox.grammar_compiler import GrammarCompiler
from lengthwise_router.text.tools.answer_format import AnswerFormat
from lengthwise_router.workers.fleet import Fleet
from lengthwise_router.workers.wakeup import Wakeups
from lengthwise_wire.errors import (
    Cancelled,
    DeadlineExceeded,
    InternalError,
    InvalidRequest,
    LengthwiseError,
    NoWorkerAvailable,
    RequestNotFound,
    Unauthenticated,
)
from lengthwise_wire.limits import check_request_id, check_tenant
from lengthwise_wire.v1 import common_pb2, inference_pb2

if TYPE_CHECKING:  # its extra need not be installed
    from lengthwise_runtime.tracing.tracer import TracedSpan, Tracer

MAX_DEADLINE_SECONDS = 86_000.0
"""Leases at decode workers last a day at most."""


class InferenceService:
    """What clients ask for, however they are connected. Errors: LengthwiseError, everywhere."""

    def __init__(
        self,
        *,
        models: ServedModels,
        fleet: Fleet,
        wakeups: Wakeups,
        metrics: FleetMetrics,
        grammars: GrammarCompiler,
        config: RouterConfig,
        tracer: "Tracer | None" = None,
        keyring: Keyring | None = None,
    ) -> None:
        """`keyring`: every call needs one of its keys."""
        self._tracer = tracer
        self._models = models
        self._keyring = keyring
        self._wakeups = wakeups
        self._grammars = grammars
        self._metrics = metrics
        self._status = StatusReport(models=models, fleet=fleet)
        self._config = config
        self._records = RequestRecords(config.explained_requests)
        self._log = RequestLog(config.request_log_level)
        self._tenants = Tenants(gateways=config.gateways, separate=config.separate_tenants)
        self.draining = False

    def caller(self, names: tuple[str, ...], headers: Iterable[Header]) -> Caller:
        """By the names of its certificate, and by its API key where there are keys. Errors:
        Unauthenticated."""
        headers = tuple(headers)
        given = [value for name, value in headers if name == AUTHORIZATION]
        holder = self._keyring.find(given) if self._keyring is not None else None
        others = tuple(each for each in headers if each[0] != AUTHORIZATION)
        return Caller(names, others, holder)

    async def generate(
        self,
        message: inference_pb2.GenerateRequest,
        *,
        deadline_seconds: float,
        keepalive: Keepalive,
        caller: Caller = UNKNOWN,
        user: str = "",
    ) -> AsyncGenerator[inference_pb2.GenerateResponse]:
        """The responses to one request, each as soon as the one before it is taken; the last has a
        finish reason.

        `keepalive` is awaited while nothing comes, once per `keepalive_seconds`. A caller that has
        gone closes the generator (`contextlib.aclosing`) or cancels the task that reads it: what
        the request holds is given back at once. `user` is for the request log alone.
        """
        deadline = RequestDeadline(
            wakeup=self._wakeups.new(),
            seconds=min(deadline_seconds, MAX_DEADLINE_SECONDS),
            keepalive_seconds=self._config.keepalive_seconds,
            keepalive=keepalive,
        )
        with self._accepted(message, caller, user, deadline) as (model, request, record):
            prompt_ids = await model.tokenised(message.prompt, deadline)
            del message  # up to 5 MiB, that nobody needs any more
            caller.usage.prompt(len(prompt_ids))
            begins_in_reasoning = request.is_chat and model.begins_in_reasoning(prompt_ids)
            grammar = await self._grammar(request, begins_in_reasoning, deadline)
            generation = Generation(
                request=request,
                prompt_ids=prompt_ids,
                max_tokens=fit(request, len(prompt_ids), model.checkpoint),
                begins_in_reasoning=begins_in_reasoning,
                grammar=grammar,
                deadline=deadline,
                record=record,
            )
            await model.dispatch.check_capacity(generation)
            await model.count_arrival(generation)
            reply = await model.new_reply(generation)
            ticket = await model.gate.enter(generation)
            try:
                response = reply.resume()
                if response is not None:
                    yield response
                    return
                async with aclosing(model.dispatch.tokens(generation)) as stream:
                    async for tokens in stream:
                        response = reply.append(tokens)
                        model.gate.generated(ticket, len(response.token_ids))
                        caller.usage.output(len(response.token_ids))
                        yield response
                        deadline.sent(time.monotonic())
                        if response.finish_reason:
                            return
            finally:
                reply.record()
                model.gate.leave(ticket)

    async def tokenize(
        self, message: inference_pb2.TokenizeRequest, caller: Caller = UNKNOWN
    ) -> inference_pb2.TokenizeResponse:
        token_ids = self._models_of(caller).find(message.model).encoder.encode(message.prompt)
        if isinstance(token_ids, asyncio.Future):
            token_ids = await in_time(token_ids, self._config.default_deadline_seconds)
        return inference_pb2.TokenizeResponse(token_ids=token_ids)

    @property
    def context_length(self) -> int:
        """In tokens, the longest: no list of them that is accepted has more."""
        return max(model.checkpoint.context_length for model in self._models)

    async def detokenize(
        self, token_ids: Sequence[int], model: str = "", caller: Caller = UNKNOWN
    ) -> str:
        """The text of tokens, special ones included."""
        text = self._models_of(caller).find(model).detokenize(token_ids)
        return await in_time(text, self._config.default_deadline_seconds)

    def token_texts(self, model: str, caller: Caller = UNKNOWN) -> Callable[[int], bytes]:
        """What each token of a model stands for."""
        return self._models_of(caller).find(model).token_bytes

    def answer_format(self, model: str, caller: Caller = UNKNOWN) -> AnswerFormat:
        """How a model writes calls of tools and reasoning."""
        return self._models_of(caller).find(model).answers

    async def check_constraint(self, constraint: common_pb2.Constraint) -> None:
        """Errors: InvalidRequest where it does not compile; Overloaded, DeadlineExceeded."""
        grammar = self._grammars.compiled(constraint)
        if isinstance(grammar, asyncio.Future):
            await in_time(grammar, self._config.default_deadline_seconds)

    def model(
        self, message: inference_pb2.GetModelRequest, caller: Caller = UNKNOWN
    ) -> inference_pb2.GetModelResponse:
        return self._models_of(caller).find(message.model).description()

    def models(self, caller: Caller = UNKNOWN) -> inference_pb2.ListModelsResponse:
        descriptions = [model.description() for model in self._models_of(caller)]
        return inference_pb2.ListModelsResponse(models=descriptions)

    def explain(
        self, message: inference_pb2.ExplainRequest, caller: Caller = UNKNOWN
    ) -> inference_pb2.ExplainResponse:
        request_id = check_request_id(message.request_id)
        served = self._models_of(caller)
        tenant = self._tenants.explained(caller, check_tenant(message.tenant))
        models = [served.find(message.model)] if message.model else served
        found = [
            record
            for model in models
            if (record := self._records.find(tenant, model.name, request_id)) is not None
        ]
        if not found:
            raise RequestNotFound(
                f"request_id: got {message.request_id!r}, expected one of the last"
                f" {self._config.explained_requests} requests of this router, and of the tenant"
                " that asks; other routers remember their own"
            )
        if len(found) > 1:
            names = ", ".join(repr(record.model) for record in found)
            raise InvalidRequest(
                f"model: got none, expected one of {names}, which all had a request {request_id!r}"
            )
        return found[0]

    def status(self, caller: Caller = UNKNOWN) -> inference_pb2.GetStatusResponse:
        self._models_of(caller)
        caller.check_admin()
        return self._status.report(draining=self.draining)

    async def idle(self, timeout_seconds: float) -> None:
        """Returns when no request is in flight, or after the time-out."""
        give_up_at = time.monotonic() + timeout_seconds
        gates = [model.gate for model in self._models]
        while any(gate.in_flight for gate in gates):
            if time.monotonic() >= give_up_at:
                return
            await asyncio.sleep(0.02)

    async def _grammar(self, request: Request, thinks: bool, deadline: RequestDeadline) -> str:
        if request.constraint is None:
            return ""
        grammar = self._grammars.compiled(request.constraint, after_reasoning=thinks)
        if isinstance(grammar, asyncio.Future):
            await deadline.until_done(grammar)
            return grammar.result()
        return grammar

    def _models_of(self, caller: Caller) -> ServedModels:
        """Those that it may use. Errors: Unauthenticated for a caller that showed no key where
        every one has to: a front end that forgot to ask for it serves nobody."""
        if self._keyring is not None and caller.holder is None:
            raise Unauthenticated("this call takes no API key, and every call needs one")
        return self._models.among(caller.models)

    @contextmanager
    def _accepted(
        self,
        message: inference_pb2.GenerateRequest,
        caller: Caller,
        user: str,
        deadline: RequestDeadline,
    ) -> Iterator[tuple[ServedModel, Request, RequestRecord]]:
        """Reads a request; counts it, and how it ends."""
        try:
            model = self._models_of(caller).find(message.model)
        except LengthwiseError as error:
            self._metrics.unserved.ended(error.status.name)
            raise
        code = "OK"
        record: RequestRecord | None = None
        model.metrics.in_flight.inc()
        try:
            if self.draining:
                raise NoWorkerAvailable("this router is draining; try another one")
            tenant = self._tenants.of(caller, check_tenant(message.tenant))
            with caller.usage.of_request():
                request = read_request(message, model.checkpoint, tenant)
                del message
                record = RequestRecord(
                    request_id=request.request_id,
                    tenant=request.tenant,
                    model=model.name,
                    priority=request.priority,
                    user=user,
                    arrived_at=deadline.arrived_at,
                    span=self._begin_span(caller, deadline),
                )
                self._records.add(record)
                yield model, request, record
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
            model.metrics.in_flight.dec()
            model.metrics.requests.ended(code)
            if record is not None:
                record.ended(code, time.monotonic() - deadline.arrived_at)
                self._log.ended(record)
                end_span(record)

    def _begin_span(self, caller: Caller, deadline: RequestDeadline) -> "TracedSpan | None":
        if self._tracer is None:
            return None
        return self._tracer.begin("generate", caller.headers, deadline.arrived_at)

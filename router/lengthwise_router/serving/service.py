"""The life of one request, top to bottom, as one generator that knows no transport."""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING

from lengthwise_router.config import RouterConfig
from lengthwise_router.fleet_metrics import FleetMetrics
from lengthwise_router.keys.keyring import AUTHORIZATION, Keyring
from lengthwise_router.serving.calls.accounts import RequestAccounts
from lengthwise_router.serving.calls.samples import Samples, check_choices
from lengthwise_router.serving.deadline import Keepalive, RequestDeadline, in_time
from lengthwise_router.serving.generation import Generation
from lengthwise_router.serving.models.served_model import ServedModel
from lengthwise_router.serving.models.served_models import ServedModels
from lengthwise_router.serving.status import StatusReport
from lengthwise_router.tenants import UNKNOWN, Caller, Header, Tenants
from lengthwise_router.text.request import Request, fit, num_choices, read_request
from lengthwise_router.text.sandbox.grammar_compiler import GrammarCompiler
from lengthwise_router.text.tools.answer_format import AnswerFormat
from lengthwise_router.workers.fleet import Fleet
from lengthwise_router.workers.wakeup import Wakeups
from lengthwise_wire.errors import (
    InvalidRequest,
    LengthwiseError,
    NoWorkerAvailable,
    RequestNotFound,
    Unauthenticated,
)
from lengthwise_wire.limits import check_request_id, check_tenant
from lengthwise_wire.v1 import common_pb2, inference_pb2

if TYPE_CHECKING:  # its extra need not be installed
    from lengthwise_runtime.tracing.tracer import Tracer

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
        self._models = models
        self._keyring = keyring
        self._wakeups = wakeups
        self._grammars = grammars
        self._metrics = metrics
        self._status = StatusReport(models=models, fleet=fleet)
        self._config = config
        self._accounts = RequestAccounts(config, tracer)
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

    def generate(
        self,
        message: inference_pb2.GenerateRequest,
        *,
        deadline_seconds: float,
        keepalive: Keepalive,
        caller: Caller = UNKNOWN,
        user: str = "",
    ) -> AsyncGenerator[inference_pb2.GenerateResponse]:
        """The responses to one request, each as soon as the one before it is taken; the last of
        each choice has a finish reason.

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
        if message.n <= 1:
            return self._generate(message, caller, user, deadline)
        samples = Samples()
        first = self._generate(message, caller, user, deadline.beside(), samples)
        return samples.stream(first, deadline)

    async def _generate(
        self,
        message: inference_pb2.GenerateRequest,
        caller: Caller,
        user: str,
        deadline: RequestDeadline,
        samples: Samples | None = None,
    ) -> AsyncGenerator[inference_pb2.GenerateResponse]:
        """The only choice, or the first of several, which adds the others to `samples`."""
        model = self._model(message, caller)
        with self._accounts.of_request(model, deadline) as account:
            if self.draining:
                raise NoWorkerAvailable("this router is draining; try another one")
            tenant = self._tenants.of(caller, check_tenant(message.tenant))
            usage = caller.usage.of_request(num_choices(message))
            with usage if samples is None else samples.holding(usage):
                adapter = model.adapter(message.model)
                request = read_request(message, model.checkpoint, tenant, model.answers, adapter)
                record = account.begin(request, caller, user)
                prompt_ids = await model.tokenised(message.prompt, deadline)
                del message  # up to 5 MiB, that nobody needs any more
                caller.usage.prompt(len(prompt_ids))
                begins_in_reasoning = request.is_chat and model.begins_in_reasoning(prompt_ids)
                generation = Generation(
                    request=request,
                    prompt_ids=prompt_ids,
                    max_tokens=fit(request, len(prompt_ids), model.checkpoint),
                    begins_in_reasoning=begins_in_reasoning,
                    grammar=await self._grammar(request, begins_in_reasoning, deadline),
                    deadline=deadline,
                    record=record,
                    shared_prompt=None if samples is None else samples.prompt,
                )
                await model.dispatch.check_capacity(generation)
                await model.count_arrival(generation)
                if samples is not None:
                    check_choices(request.num_choices, len(prompt_ids), self._config)
                    for choice in range(1, request.num_choices):
                        samples.add(self._choice(model, generation, choice, caller, user))
                async with aclosing(self._answer(model, generation, caller)) as responses:
                    async for response in responses:
                        yield response

    async def _choice(
        self, model: ServedModel, first: Generation, choice: int, caller: Caller, user: str
    ) -> AsyncGenerator[inference_pb2.GenerateResponse]:
        """Another choice of the request whose first one is at hand."""
        deadline, request = first.deadline.beside(), first.request.choice_of(choice)
        with self._accounts.of_request(model, deadline) as account:
            record = account.begin(request, caller, user)
            max_tokens = fit(request, first.num_prompt_tokens, model.checkpoint)
            generation = first.beside(request, max_tokens, deadline, record)
            async with aclosing(self._answer(model, generation, caller)) as responses:
                async for response in responses:
                    yield response

    async def _answer(
        self, model: ServedModel, generation: Generation, caller: Caller
    ) -> AsyncGenerator[inference_pb2.GenerateResponse]:
        """From admission to the last token."""
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
                    generation.deadline.sent(time.monotonic())
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
        return self._models_of(caller).find(message.model).description(message.model)

    def models(self, caller: Caller = UNKNOWN) -> inference_pb2.ListModelsResponse:
        served = self._models_of(caller)
        described = (each for model in served for each in model.descriptions())
        allowed = [each for each in described if served.allows(each.model)]
        return inference_pb2.ListModelsResponse(models=allowed)

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
            if (record := self._accounts.records.find(tenant, model.name, request_id)) is not None
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

    def _model(self, message: inference_pb2.GenerateRequest, caller: Caller) -> ServedModel:
        """The one that a request names. Errors: as `ServedModels.find`, and they are counted."""
        try:
            return self._models_of(caller).find(message.model)
        except LengthwiseError as error:
            self._metrics.unserved.ended(error.status.name)
            raise

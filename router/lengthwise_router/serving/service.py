"""The Inference service: the life of one request, top to bottom, is one coroutine here."""

import asyncio
import time
from contextlib import aclosing
from typing import Any

import grpc

from lengthwise_policy.admission.fair_share import Ticket
from lengthwise_policy.length_class import length_class
from lengthwise_router.config import RouterConfig
from lengthwise_router.metrics import RouterMetrics
from lengthwise_router.serving.admission_gate import AdmissionGate
from lengthwise_router.serving.dispatch import Dispatch
from lengthwise_router.serving.generation import Generation, RequestDeadline
from lengthwise_router.serving.records import RequestRecord, RequestRecords
from lengthwise_router.serving.reply import Reply
from lengthwise_router.text.checkpoint import Checkpoint
from lengthwise_router.text.detokenizer import Vocabulary
from lengthwise_router.text.request import (
    Request,
    check_model,
    fit,
    read_request,
)
from lengthwise_router.text.tokenization import PromptEncoder
from lengthwise_router.workers.fleet import Fleet
from lengthwise_router.workers.wakeup import Wakeups
from lengthwise_wire.convert import sampling_to_wire
from lengthwise_wire.errors import (
    DeadlineExceeded,
    LengthwiseError,
    NoWorkerAvailable,
    RequestNotFound,
)
from lengthwise_wire.limits import check_request_id
from lengthwise_wire.v1 import inference_pb2, inference_pb2_grpc

Context = grpc.aio.ServicerContext[Any, Any]

MAX_DEADLINE_SECONDS = 86_000.0
"""Leases at decode workers last a day at most."""

UNREAD_SECONDS = 5.0
"""A message that a client does not take for so long after the deadline is given up."""

DEADLINE_SLACK_SECONDS = 0.05
"""A client's clock runs out a network's delay before the router's, and its cancellation is what
arrives: so close to the deadline it is the deadline."""

KEEPALIVE = inference_pb2.GenerateResponse()


class InferenceService(inference_pb2_grpc.InferenceServicer):
    """What clients call."""

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
        self._config = config
        self._records = RequestRecords(config.explained_requests)
        self.draining = False

    async def Generate(self, message: inference_pb2.GenerateRequest, context: Context) -> None:
        arrived_at = time.monotonic()
        code = grpc.StatusCode.OK
        record: RequestRecord | None = None
        self._metrics.in_flight.inc()
        try:
            if self.draining:
                raise NoWorkerAvailable("this router is draining; try another one")
            request = read_request(message, self._checkpoint)
            record = RequestRecord(
                request_id=request.request_id,
                model=self._checkpoint.name,
                priority=request.priority,
            )
            self._records.add(record)
            await self._generate(request, message.prompt, record, context, arrived_at)
        except LengthwiseError as error:
            code = error.status
            raise
        except asyncio.CancelledError:
            # gRPC cancels the call both when the client does and when its deadline passes.
            remaining = context.time_remaining()
            is_late = remaining is not None and remaining < DEADLINE_SLACK_SECONDS
            code = grpc.StatusCode.DEADLINE_EXCEEDED if is_late else grpc.StatusCode.CANCELLED
            raise
        except Exception:
            code = grpc.StatusCode.INTERNAL
            raise
        finally:
            self._metrics.in_flight.dec()
            self._metrics.request_ended(code.name)
            if record is not None:
                record.ended(code.name, time.monotonic() - arrived_at)

    async def GetModel(
        self, message: inference_pb2.GetModelRequest, context: Context
    ) -> inference_pb2.GetModelResponse:
        checkpoint = self._checkpoint
        sampling = sampling_to_wire(checkpoint.default_sampling)
        sampling.ClearField("seed")
        return inference_pb2.GetModelResponse(
            model=checkpoint.name,
            context_length=checkpoint.context_length,
            vocab_size=checkpoint.vocab_size,
            eos_token_ids=checkpoint.eos_token_ids,
            has_chat_template=self._encoder.has_chat_template,
            model_fingerprint=self._fleet.model_fingerprint,
            default_sampling=sampling,
        )

    async def Tokenize(
        self, message: inference_pb2.TokenizeRequest, context: Context
    ) -> inference_pb2.TokenizeResponse:
        check_model(message.model, self._checkpoint)
        token_ids = self._encoder.encode(message.prompt)
        if isinstance(token_ids, asyncio.Future):
            token_ids = await token_ids
        return inference_pb2.TokenizeResponse(token_ids=token_ids)

    async def Explain(
        self, message: inference_pb2.ExplainRequest, context: Context
    ) -> inference_pb2.ExplainResponse:
        check_request_id(message.request_id)
        response = self._records.find(message.request_id)
        if response is None:
            raise RequestNotFound(
                f"request_id: got {message.request_id!r}, expected one of the last"
                f" {self._config.explained_requests} requests of this router; other routers"
                " remember their own"
            )
        return response

    async def idle(self, timeout_seconds: float) -> None:
        """Returns when no request is in flight, or after the timeout."""
        give_up_at = time.monotonic() + timeout_seconds
        while self._gate.in_flight and time.monotonic() < give_up_at:  # noqa: ASYNC110
            await asyncio.sleep(0.02)

    async def _generate(
        self,
        request: Request,
        prompt: inference_pb2.Prompt,
        record: RequestRecord,
        context: Context,
        arrived_at: float,
    ) -> None:
        given = context.time_remaining()
        seconds = self._config.default_deadline_seconds if given is None else given
        deadline_at = arrived_at + min(seconds, MAX_DEADLINE_SECONDS)
        deadline = RequestDeadline(
            wakeup=self._wakeups.new(),
            deadline_at=deadline_at,
            ends_call=given is None,
            keepalive_seconds=self._config.keepalive_seconds,
            keepalive=lambda: context.write(KEEPALIVE),
        )
        serving = self._serve(request, prompt, deadline, record, context, arrived_at)
        if given is not None:
            # gRPC cancels this coroutine at the call's own deadline, wherever it waits.
            await serving
            return
        try:
            # For a client that stopped reading: whatever else waits ends at the deadline itself.
            async with asyncio.timeout_at(deadline_at + UNREAD_SECONDS):
                await serving
        except TimeoutError as error:
            raise DeadlineExceeded(
                f"no deadline was given, and the router's own of {seconds:g} s passed"
            ) from error

    async def _serve(
        self,
        request: Request,
        prompt: inference_pb2.Prompt,
        deadline: RequestDeadline,
        record: RequestRecord,
        context: Context,
        arrived_at: float,
    ) -> None:
        prompt_ids = self._encoder.encode(prompt)
        if isinstance(prompt_ids, asyncio.Future):
            await deadline.until_done(prompt_ids)
            prompt_ids = prompt_ids.result()
        max_tokens = fit(request, len(prompt_ids), self._checkpoint)
        record.measured(prompt_tokens=len(prompt_ids), max_tokens=max_tokens)
        generation = Generation(
            request=request,
            prompt_ids=prompt_ids,
            max_tokens=max_tokens,
            deadline=deadline,
            record=record,
        )
        await self._count_arrival(generation)
        ticket = await self._gate.enter(generation)
        try:
            await self._relay(generation, ticket, context, arrived_at)
        finally:
            self._gate.leave(ticket)

    async def _count_arrival(self, generation: Generation) -> None:
        """Demand is measured before anything holds a request back: what is served saturates."""
        token_ids = generation.token_ids
        cached = await self._fleet.prefixes.cached_tokens(token_ids, generation.hashes)
        residual = max(len(token_ids) - max(cached.values(), default=0), 1)
        self._metrics.arrived(length_class(residual, self._fleet.short_tokens), residual)

    async def _relay(
        self, generation: Generation, ticket: Ticket, context: Context, arrived_at: float
    ) -> None:
        """Tokens from the workers become messages to the client, each as soon as the one before it
        is written."""
        reply = Reply(generation, self._vocabulary.detokenizer(), self._metrics, arrived_at)
        try:
            response = reply.resume()
            if response is not None:
                await context.write(response)
                return
            async with aclosing(self._dispatch.tokens(generation)) as stream:
                async for tokens in stream:
                    response = reply.append(tokens)
                    self._gate.generated(ticket, len(response.token_ids))
                    await context.write(response)
                    generation.deadline.sent(time.monotonic())
                    if response.finish_reason:
                        return
        finally:
            generation.record.timed(reply.timings(), reply.num_tokens)

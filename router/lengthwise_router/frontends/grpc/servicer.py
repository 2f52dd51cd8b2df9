"""The Inference service over gRPC: an adapter of `InferenceService`. Errors become statuses in the
runtime's handlers."""

from contextlib import aclosing
from typing import Any

import grpc

from lengthwise_router.config import RouterConfig
from lengthwise_router.serving.deadline import SLACK_SECONDS
from lengthwise_router.serving.service import InferenceService
from lengthwise_router.tenants import Caller
from lengthwise_runtime.calls.places import Count
from lengthwise_runtime.handlers import MAX_CALLS
from lengthwise_runtime.server import Server
from lengthwise_runtime.tls.callers import certificate_names
from lengthwise_wire.errors import Overloaded
from lengthwise_wire.limits import MAX_PROMPT_TOKENS
from lengthwise_wire.v1 import inference_pb2, inference_pb2_grpc

Context = grpc.aio.ServicerContext[Any, Any]

SERVICE = "lengthwise.v1.Inference"

KEEPALIVE = inference_pb2.GenerateResponse()


class InferenceServicer(inference_pb2_grpc.InferenceServicer):
    """What gRPC clients call."""

    def __init__(self, service: InferenceService, default_deadline_seconds: float) -> None:
        self._service = service
        self._default_deadline_seconds = default_deadline_seconds

    async def Generate(self, message: inference_pb2.GenerateRequest, context: Context) -> None:
        """A coroutine that writes, and no generator: cancelled during a write, it notices at once.

        gRPC cancels it when the client hangs up, and at the client's deadline. A client that takes
        nothing ends it, see `BoundedCall`.
        """
        given = context.time_remaining()
        seconds = self._default_deadline_seconds
        if given is not None:
            # A client that gives up first learns no reason.
            seconds = given - min(SLACK_SECONDS, given / 10)
        responses = self._service.generate(
            message,
            deadline_seconds=seconds,
            keepalive=lambda: context.write(KEEPALIVE),
            caller=self._caller(context),
        )
        del message  # the service lets it go once it has read it
        async with aclosing(responses):
            async for response in responses:
                try:
                    await context.write(response)
                except Overloaded as unread:
                    await responses.athrow(unread)  # so that the request is counted as ended by it

    async def GetModel(
        self, message: inference_pb2.GetModelRequest, context: Context
    ) -> inference_pb2.GetModelResponse:
        return self._service.model(message, self._caller(context))

    async def ListModels(
        self, message: inference_pb2.ListModelsRequest, context: Context
    ) -> inference_pb2.ListModelsResponse:
        return self._service.models(self._caller(context))

    async def Tokenize(
        self, message: inference_pb2.TokenizeRequest, context: Context
    ) -> inference_pb2.TokenizeResponse:
        return await self._service.tokenize(message, self._caller(context))

    async def Explain(
        self, message: inference_pb2.ExplainRequest, context: Context
    ) -> inference_pb2.ExplainResponse:
        return self._service.explain(message, self._caller(context))

    async def GetStatus(
        self, message: inference_pb2.GetStatusRequest, context: Context
    ) -> inference_pb2.GetStatusResponse:
        return self._service.status(self._caller(context))

    def _caller(self, context: Context) -> Caller:
        return caller_of(self._service, context)


def caller_of(service: InferenceService, context: Context) -> Caller:
    """Errors: Unauthenticated."""
    return service.caller(certificate_names(context), context.invocation_metadata() or ())


def grpc_server(service: InferenceService, config: RouterConfig, count: Count) -> Server:
    """To be started. `count`: of calls that never reach the service, or that it cannot answer."""
    most = len(config.served) * (config.max_requests_in_flight + config.max_queued)
    server = Server(
        config.listen,
        config.client_tls or config.tls,
        [SERVICE],
        count=count,
        max_calls=max(MAX_CALLS, 2 * most),
        max_tokens=min(service.context_length, MAX_PROMPT_TOKENS),
        check=lambda context: caller_of(service, context),
    )
    inference_pb2_grpc.add_InferenceServicer_to_server(
        InferenceServicer(service, config.default_deadline_seconds), server.guarded
    )
    return server

"""`AsyncTransport` over a grpc.aio channel."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import TypeVar

import grpc
from grpc.aio import EOF  # type: ignore[attr-defined]  # the stubs lack it

from lengthwise._grpc.channel import call_metadata, channel_options, credentials, error_of, silent
from lengthwise._grpc.trace_context import trace_context
from lengthwise.settings import Timeout, Tls
from lengthwise_wire.errors import Cancelled, LengthwiseError, NoWorkerAvailable
from lengthwise_wire.v1 import inference_pb2 as pb
from lengthwise_wire.v1 import inference_pb2_grpc

T = TypeVar("T")


class GrpcAioTransport:
    """One target. The channel belongs to the event loop of the first call."""

    def __init__(
        self, target: str, *, tls: Tls | None, connect_seconds: float, api_key: str | None = None
    ) -> None:
        self._key = call_metadata(api_key)
        self._target = target
        self._options = channel_options(target, connect_seconds)
        self._credentials = credentials(tls) if tls else None
        self._channel: grpc.aio.Channel | None = None
        self._closed = False

    async def generate(
        self, request: pb.GenerateRequest, patience: Timeout
    ) -> AsyncGenerator[pb.GenerateResponse, None]:
        call = self._stub().Generate(
            request, timeout=patience.total, metadata=(*(trace_context() or ()), *self._key)
        )
        seconds = patience.connect
        try:
            while True:
                try:
                    async with asyncio.timeout(seconds):
                        response = await self._translated(call.read(), patience)
                except TimeoutError as error:
                    raise silent(self._target, seconds) from error
                if response is EOF:
                    return
                seconds = patience.silence
                yield response
        finally:
            call.cancel()

    async def get_model(
        self, request: pb.GetModelRequest, patience: Timeout
    ) -> pb.GetModelResponse:
        return await self._unary(self._stub().GetModel, request, patience)

    async def list_models(
        self, request: pb.ListModelsRequest, patience: Timeout
    ) -> pb.ListModelsResponse:
        return await self._unary(self._stub().ListModels, request, patience)

    async def tokenize(self, request: pb.TokenizeRequest, patience: Timeout) -> pb.TokenizeResponse:
        return await self._unary(self._stub().Tokenize, request, patience)

    async def explain(self, request: pb.ExplainRequest, patience: Timeout) -> pb.ExplainResponse:
        return await self._unary(self._stub().Explain, request, patience)

    async def get_status(
        self, request: pb.GetStatusRequest, patience: Timeout
    ) -> pb.GetStatusResponse:
        return await self._unary(self._stub().GetStatus, request, patience)

    async def close(self) -> None:
        """Cancels what still runs."""
        self._closed = True
        if self._channel is not None:
            await self._channel.close(None)

    def _stub(self) -> inference_pb2_grpc.InferenceStub:
        if self._closed:
            raise Cancelled("the client is closed")
        if self._channel is None:
            if self._credentials is None:
                self._channel = grpc.aio.insecure_channel(self._target, self._options)
            else:
                self._channel = grpc.aio.secure_channel(
                    self._target, self._credentials, self._options
                )
        return inference_pb2_grpc.InferenceStub(self._channel)

    async def _unary(
        self, method: Callable[..., Awaitable[T]], request: object, patience: Timeout
    ) -> T:
        call = method(request, timeout=patience.total, metadata=self._key)
        return await self._translated(call, patience)

    async def _translated(self, call: Awaitable[T], patience: Timeout) -> T:
        try:
            return await call
        except grpc.RpcError as error:
            raise self._error(error, patience) from error
        except asyncio.CancelledError:
            # grpc.aio also raises this for a call that the *server* cancelled; the task knows
            # better.
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            if self._closed:
                raise Cancelled("the client was closed") from None
            raise NoWorkerAvailable(f"{self._target} cut the call") from None

    def _error(self, error: grpc.RpcError, patience: Timeout) -> LengthwiseError:
        if self._closed:
            return Cancelled("the client was closed")
        return error_of(self._target, error, patience)

"""`Transport` over a synchronous gRPC channel."""

from collections.abc import Generator
from typing import Any

import grpc
from google.protobuf.message import Message

from lengthwise._grpc.channel import call_metadata, channel_options, credentials, error_of, silent
from lengthwise._grpc.trace_context import trace_context
from lengthwise._grpc.watchdog import Watchdog
from lengthwise.settings import Timeout, Tls
from lengthwise_wire.errors import Cancelled, LengthwiseError
from lengthwise_wire.v1 import inference_pb2 as pb
from lengthwise_wire.v1 import inference_pb2_grpc


class GrpcTransport:
    """One target. Connecting happens on first use; any number of threads may call."""

    def __init__(
        self, target: str, *, tls: Tls | None, connect_seconds: float, api_key: str | None = None
    ) -> None:
        self._key = call_metadata(api_key)
        options = channel_options(target, connect_seconds)
        if tls is None:
            self._channel = grpc.insecure_channel(target, options)
        else:
            self._channel = grpc.secure_channel(target, credentials(tls), options)
        self._target = target
        self._stub = inference_pb2_grpc.InferenceStub(self._channel)
        self._watchdog = Watchdog()
        self._closed = False

    def generate(
        self, request: pb.GenerateRequest, patience: Timeout
    ) -> Generator[pb.GenerateResponse, None, None]:
        self._check_open()
        call = self._stub.Generate(
            request, timeout=patience.total, metadata=(*(trace_context() or ()), *self._key)
        )
        seconds, shortest = patience.connect, min(patience.connect, patience.silence)
        try:
            with self._watchdog.watch(call.cancel, shortest=shortest) as watch:
                while True:
                    try:
                        with watch.waiting(seconds):
                            response = next(call, None)
                    except grpc.RpcError as error:
                        if watch.expired:
                            raise silent(self._target, seconds) from error
                        raise self._error(error, patience) from error
                    if response is None:
                        return
                    seconds = patience.silence
                    yield response
        finally:
            call.cancel()

    def get_model(self, request: pb.GetModelRequest, patience: Timeout) -> pb.GetModelResponse:
        response: pb.GetModelResponse = self._unary(self._stub.GetModel, request, patience)
        return response

    def list_models(
        self, request: pb.ListModelsRequest, patience: Timeout
    ) -> pb.ListModelsResponse:
        response: pb.ListModelsResponse = self._unary(self._stub.ListModels, request, patience)
        return response

    def tokenize(self, request: pb.TokenizeRequest, patience: Timeout) -> pb.TokenizeResponse:
        response: pb.TokenizeResponse = self._unary(self._stub.Tokenize, request, patience)
        return response

    def explain(self, request: pb.ExplainRequest, patience: Timeout) -> pb.ExplainResponse:
        response: pb.ExplainResponse = self._unary(self._stub.Explain, request, patience)
        return response

    def get_status(self, request: pb.GetStatusRequest, patience: Timeout) -> pb.GetStatusResponse:
        response: pb.GetStatusResponse = self._unary(self._stub.GetStatus, request, patience)
        return response

    def close(self) -> None:
        """Cancels what still runs."""
        self._closed = True
        self._channel.close()

    def _unary(self, method: Any, request: Message, patience: Timeout) -> Any:
        self._check_open()
        try:
            return method(request, timeout=patience.total, metadata=self._key)
        except grpc.RpcError as error:
            raise self._error(error, patience) from error

    def _error(self, error: grpc.RpcError, patience: Timeout) -> LengthwiseError:
        if self._closed:
            return Cancelled("the client was closed")
        return error_of(self._target, error, patience)

    def _check_open(self) -> None:
        if self._closed:
            raise Cancelled("the client is closed")

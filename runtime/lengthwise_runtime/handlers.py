"""Servicers → gRPC handlers that turn our errors into statuses and refuse malformed messages.

The wrapping happens once, when a servicer is registered, not in an interceptor on every call.
"""

import inspect
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, NoReturn

import grpc
from google.protobuf.message import DecodeError

from lengthwise_wire.errors import (
    ERROR_KEY,
    RETRY_AFTER_KEY,
    InternalError,
    InvalidRequest,
    LengthwiseError,
)

logger = logging.getLogger(__name__)

Context = grpc.aio.ServicerContext[Any, Any]
Handlers = Mapping[str, "grpc.RpcMethodHandler[Any, Any]"]


class _Malformed:
    """Stands for a request that is not the message it should be."""

    def __init__(self, error: InvalidRequest) -> None:
        self.error = error


class GuardedServer:
    """What generated `add_…Servicer_to_server` functions are given in a server's place."""

    def __init__(self, server: grpc.aio.Server) -> None:
        self._server = server

    def add_generic_rpc_handlers(self, handlers: object) -> None:
        """Ignored: the same handlers come by name in the next call."""

    def add_registered_method_handlers(self, service: str, handlers: Handlers) -> None:
        guarded = {name: _guarded(handler) for name, handler in handlers.items()}
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(service, guarded),)
        )


def _guarded(handler: Any) -> Any:
    deserializer = _checked(handler.request_deserializer)
    serializer = handler.response_serializer
    if handler.unary_unary:
        return grpc.unary_unary_rpc_method_handler(
            _unary(handler.unary_unary), deserializer, serializer
        )
    if handler.unary_stream:
        behaviour = handler.unary_stream
        # A handler is a generator, or a coroutine that calls `context.write`: that one notices at
        # once, and not only when it is collected, that its call was cancelled during a write.
        guard = _unary if inspect.iscoroutinefunction(behaviour) else _stream
        return grpc.unary_stream_rpc_method_handler(guard(behaviour), deserializer, serializer)
    if handler.stream_stream:
        return grpc.stream_stream_rpc_method_handler(
            _stream(handler.stream_stream), handler.request_deserializer, serializer
        )
    raise InternalError("client-streaming methods are not in use; got one to register")


def _checked(deserialize: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    def parse(data: bytes) -> Any:
        try:
            return deserialize(data)
        except DecodeError as error:
            return _Malformed(
                InvalidRequest(
                    f"the message is not valid protobuf (text must be UTF-8): got {len(data)}"
                    f" bytes, {str(error) or 'cannot be parsed'}; expected a message of this"
                    " method's type"
                )
            )

    return parse


def _unary(behaviour: Callable[[Any, Context], Any]) -> Callable[[Any, Context], Any]:
    async def call(request: Any, context: Context) -> Any:
        try:
            if isinstance(request, _Malformed):
                raise request.error
            return await behaviour(request, context)
        except Exception as error:
            await _abort(context, error)

    return call


def _stream(
    behaviour: Callable[[Any, Context], AsyncIterator[Any]],
) -> Callable[[Any, Context], AsyncIterator[Any]]:
    async def call(request: Any, context: Context) -> AsyncIterator[Any]:
        try:
            if isinstance(request, _Malformed):
                raise request.error
            async for response in behaviour(request, context):
                yield response
        except Exception as error:
            await _abort(context, error)

    return call


async def _abort(context: Context, error: Exception) -> NoReturn:
    if isinstance(error, grpc.aio.AbortError | grpc.aio.UsageError):
        raise error
    if not isinstance(error, LengthwiseError):
        logger.exception("unexpected error in a handler")
        error = InternalError(f"a defect in the server ({type(error).__name__}); see its log")
    metadata = [(ERROR_KEY, type(error).__name__)]
    if error.retry_after_seconds is not None:
        metadata.append((RETRY_AFTER_KEY, f"{error.retry_after_seconds:.3f}"))
    await context.abort(error.status, str(error), tuple(metadata))
    raise AssertionError("abort returns never")

"""Servicers → gRPC handlers that turn our errors into statuses, refuse malformed messages, and hold
every call within the limits of `calls`.

The wrapping happens once, when a servicer is registered, not in an interceptor on every call. For
gRPC every method is one of streams: only so a handler runs before its request has arrived, and
writes what it answers itself.
"""

import inspect
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, NoReturn

import grpc
from google.protobuf.message import DecodeError

from lengthwise_runtime.calls.bounded_call import BoundedCall
from lengthwise_runtime.calls.large_requests import LargeRequests
from lengthwise_runtime.calls.places import Count, Places, YieldingPlaces
from lengthwise_runtime.calls.turns import Turns
from lengthwise_runtime.tls.callers import CallerCheck, Check, permit
from lengthwise_wire.errors import (
    ERROR_KEY,
    RETRY_AFTER_KEY,
    InternalError,
    InvalidRequest,
    LengthwiseError,
)
from lengthwise_wire.field_count import check_num_fields
from lengthwise_wire.limits import MAX_PROMPT_TOKENS

logger = logging.getLogger(__name__)

Handlers = Mapping[str, "grpc.RpcMethodHandler[Any, Any]"]

Answer = Callable[[Any, BoundedCall], Awaitable[None]]
"""Writes what a method answers to a request, or to an iterator of them."""

REQUEST_SECONDS = 20.0
"""A call's (first) request has arrived by then: 5 MB do so at 2 Mbit/s."""

MAX_CALLS = 4096
"""Of each service, and of calls whose request has not arrived, which hold 13 KB each."""

MAX_PROBES = 256
"""Calls of health and reflection, which can be streams that last."""


Parse = Callable[[bytes], Any]
"""Errors: InvalidRequest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Method:
    """How its calls are answered."""

    checks: tuple[Check, ...]
    parse: Parse
    answer: Answer
    takes_stream: bool
    places: Places | YieldingPlaces


class GuardedServer:
    """What generated `add_…Servicer_to_server` functions are given in a server's place."""

    def __init__(
        self,
        server: Any,
        callers: CallerCheck,
        count: Count,
        max_calls: int = MAX_CALLS,
        max_tokens: int = MAX_PROMPT_TOKENS,
        check: Check = permit,
    ) -> None:
        """`max_tokens`: in one list of a request. `check`: of all but health and reflection."""
        self._server = server
        self._callers = callers
        self._count = count
        self._max_calls = max_calls
        self._max_tokens = max_tokens
        self._check = check
        self._waiting = YieldingPlaces(max_calls, "no_request", count)
        self._large = LargeRequests()
        self._turns = Turns()

    def add_generic_rpc_handlers(self, handlers: object) -> None:
        """Ignored: the same handlers come by name in the next call."""

    def add_registered_method_handlers(self, service: str, handlers: Handlers) -> None:
        places: Places | YieldingPlaces
        if service.startswith("grpc."):
            places = YieldingPlaces(MAX_PROBES, "too_many", self._count)
        else:
            places = Places(self._max_calls, self._count)
        check = permit if service.startswith("grpc.") else self._check
        guarded = {
            name: self._guarded(handler, (self._callers.of(service, name), check), places)
            for name, handler in handlers.items()
        }
        self._server.add_registered_method_handlers(service, guarded)

    def _guarded(
        self, handler: Any, checks: tuple[Check, ...], places: Places | YieldingPlaces
    ) -> Any:
        if handler.request_streaming and not handler.response_streaming:
            raise InternalError("client-streaming methods are not in use; got one to register")
        behaviour = handler.stream_stream or handler.unary_stream or handler.unary_unary
        method = _Method(
            checks=checks,
            parse=_parser(handler.request_deserializer, self._max_tokens),
            answer=_answer(behaviour, handler.response_streaming),
            takes_stream=handler.request_streaming,
            places=places,
        )

        async def serve(requests: AsyncIterator[Any], context: Any) -> None:
            call = BoundedCall(context, self._count)
            try:
                await self._serve(method, requests, call)
            except Exception as error:
                await _abort(call, error)

        # Requests are parsed here, so that gRPC keeps none for as long as its call lasts.
        return grpc.stream_stream_rpc_method_handler(serve, None, handler.response_serializer)

    async def _serve(
        self, method: _Method, requests: AsyncIterator[Any], call: BoundedCall
    ) -> None:
        for check in method.checks:
            check(call)
        async with self._waiting.taken(REQUEST_SECONDS):
            await self._turns.wait(call.peer())
            request = await self._large.read(call)
        if request is None:
            raise InvalidRequest("the call ended without a request")
        first = [request]
        del request  # one that waits for its answer costs nothing
        async with method.places.taken():
            if method.takes_stream:
                await method.answer(_Requests(first, requests, method.parse), call)
            else:
                await method.answer(method.parse(first.pop()), call)


def _answer(behaviour: Callable[[Any, Any], Any], is_stream: bool) -> Answer:
    """A servicer's method answers by its result, as a generator, or calls `context.write`: the
    last notices at once, and not only when it is collected, that its call was cancelled during a
    write."""
    if is_stream and inspect.iscoroutinefunction(behaviour):
        return behaviour

    async def answer_all(request: Any, call: BoundedCall) -> None:
        async with aclosing(behaviour(request, call)) as messages:
            async for message in messages:
                await call.write(message)

    async def answer_once(request: Any, call: BoundedCall) -> None:
        await call.write(await behaviour(request, call))

    return answer_all if is_stream else answer_once


def _parser(deserialize: Any, max_tokens: int) -> Parse:
    """`deserialize`: `FromString` of a message's class."""
    message = deserialize.__self__

    def parse(data: bytes) -> Any:
        try:
            check_num_fields(data, message, max_tokens)
            return deserialize(data)
        except DecodeError as error:
            raise InvalidRequest(
                f"the message is not valid protobuf (text must be UTF-8): got {len(data)} bytes,"
                f" {str(error) or 'cannot be parsed'}; expected a message of this method's type"
            ) from error

    return parse


class _Requests:
    """The requests of a stream. Errors: InvalidRequest for one that is malformed."""

    def __init__(self, first: list[bytes], others: AsyncIterator[bytes], parse: Parse) -> None:
        self._first = first
        self._others = others
        self._parse = parse

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        return self._parse(self._first.pop() if self._first else await anext(self._others))


async def _abort(call: BoundedCall, error: Exception) -> NoReturn:
    if isinstance(error, grpc.aio.BaseError):
        raise error
    if not isinstance(error, LengthwiseError):
        logger.exception("unexpected error in a handler")
    # gRPC keeps what ended the call, and so this error, until the garbage collector comes: without
    # the frames that it was raised in, the request's message goes at once.
    error.__traceback__ = error.__context__ = error.__cause__ = None
    if not isinstance(error, LengthwiseError):
        error = InternalError(f"a defect in the server ({type(error).__name__}); see its log")
    metadata = [(ERROR_KEY, type(error).__name__)]
    if error.retry_after_seconds is not None:
        metadata.append((RETRY_AFTER_KEY, f"{error.retry_after_seconds:.3f}"))
    await call.abort(error.status, str(error), tuple(metadata))
    raise AssertionError("abort returns never")

"""The part of gRPC's asyncio server that takes calls, for callers that do not keep to the protocol.

Two things gRPC 1.85 cannot do, and a server that strangers reach must:

* It decodes the path of every call it has no method for, and one that is not UTF-8 ends the server:
  nothing is served any more, while the process lives on. Here such calls are answered
  UNIMPLEMENTED, whatever their path is; methods are known to gRPC's core by name.
* It cannot end a call whose caller takes nothing: the status waits behind the unread message. Here
  `end_call` lets the core drop the call, which resets its stream.

It knows these insides of grpcio, and a test runs it against the installed one: `AioServer` arms
itself through `_make_request_call_future`, `_handle_rpc` serves one call, `_schedule_rpc_coro` also
watches whether its caller hangs up.
"""

import asyncio
import gc
import logging
from collections.abc import Callable, Coroutine
from contextvars import ContextVar
from functools import partial
from typing import Any, NoReturn

import grpc
from grpc._cython import cygrpc  # type: ignore[attr-defined]  # absent from the stubs

from lengthwise_runtime.calls.wakeups import take_all_wakeups

# At DEBUG gRPC logs a server while it is freed: who keeps that record keeps a pointer to nothing.
logging.getLogger("grpc._cython.cygrpc").setLevel(logging.INFO)

AT_ONCE = 16
"""Calls of a method that a turn of the event loop takes. Of 2000 that came together gRPC's one at a
time took 36 s, on two busy cores, while those that it had taken ran."""

_drop: ContextVar[Callable[[], None] | None] = ContextVar("drop", default=None)
"""Of the call that the running task serves."""


def _is_no_callers_doing(record: logging.LogRecord) -> bool:
    """gRPC logs a traceback where a caller hangs up while the status is on its way, and where one
    sends metadata that is not UTF-8."""
    error = record.exc_info and record.exc_info[1]
    return not isinstance(error, cygrpc.ExecuteBatchError | UnicodeDecodeError)


logging.getLogger("grpc._cython.cygrpc").addFilter(_is_no_callers_doing)


class Acceptor(cygrpc.AioServer):  # type: ignore[misc]  # has no types
    """Takes the place of the `AioServer` in a `grpc.aio.Server`, see `accepting_server`."""

    def __init__(self, loop: asyncio.AbstractEventLoop, options: Any) -> None:
        super().__init__(loop, None, (), None, options, None)
        self._event_loop = loop
        self._handlers: dict[str, Any] = {}
        self._calls: set[asyncio.Task[None]] = set()
        self._will_collect = False

    def add_registered_method_handlers(self, handlers: dict[str, Any]) -> None:
        self._handlers.update(handlers)
        super().add_registered_method_handlers(handlers)

    def _make_request_call_future(self, method: bytes | None) -> "asyncio.Task[None]":
        return self._event_loop.create_task(self._accept_many(method))

    async def _accept_many(self, method: bytes | None) -> None:
        await asyncio.gather(*(self._accept(method) for _ in range(AT_ONCE)))

    async def _accept(self, method: bytes | None) -> NoReturn:
        """Takes calls of this method, or of none that there is, until the server stops, which gRPC
        tells by an error."""
        name = "" if method is None else method.decode()
        resolver = cygrpc._MethodResolver([], self._handlers)
        loop = self._event_loop
        while True:
            if method is None:
                state = await self._request_call()
            else:
                state = await self._request_registered_call(method)
            served = cygrpc._handle_rpc(name, resolver, (), state, loop, False)
            watched = cygrpc._schedule_rpc_coro(served, state, loop, name)
            task = loop.create_task(self._run(watched))
            self._calls.add(task)
            task.add_done_callback(self._calls.discard)
            del state, served, watched, task  # the core drops a call that nothing refers to

    async def _run(self, watched: Coroutine[Any, Any, None]) -> None:
        task = asyncio.current_task()
        assert task is not None
        _drop.set(partial(self._drop, task))
        await watched

    def _drop(self, call: asyncio.Task[None]) -> None:
        """gRPC's objects of a call refer to one another, so only a collection frees them: at most
        one in a second, which takes 0.02 to 0.1 s."""
        call.cancel()
        if not self._will_collect:
            self._will_collect = True
            self._event_loop.call_later(1.0, self._collect)

    def _collect(self) -> None:
        self._will_collect = False
        gc.collect()


def accepting_server(options: tuple[tuple[str, int], ...]) -> grpc.aio.Server:
    """Its methods are registered by name; generic handlers are not asked."""
    server: Any = grpc.aio.server()
    server._server = Acceptor(server._loop, options)
    take_all_wakeups(server._loop)
    return server  # type: ignore[no-any-return]


def end_call() -> None:
    """Drops the call that the running task serves: little later nothing is left of it."""
    drop = _drop.get()
    if drop is not None:
        drop()

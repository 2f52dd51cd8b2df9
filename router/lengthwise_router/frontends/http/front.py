"""Around all endpoints: request ids, errors as answers, callers that hang up or take nothing."""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Final

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lengthwise_router.frontends.http.body import BODY_IS_READ, discard
from lengthwise_router.frontends.http.connections import connection_of
from lengthwise_router.frontends.http.errors import (
    FIELD_NAMES,
    NAMES_OF_CALL,
    ErrorAnswer,
    FieldNames,
    HttpError,
    error_answer,
)
from lengthwise_router.keys.keyring import UNLIMITED
from lengthwise_runtime.calls.bounded_call import UNREAD_SECONDS
from lengthwise_runtime.calls.places import RETRY_SECONDS, Count
from lengthwise_wire.errors import LengthwiseError, NoWorkerAvailable, Overloaded
from lengthwise_wire.limits import check_request_id

_BODY_HEADERS: Final = frozenset({b"content-length", b"transfer-encoding"})

RATE_LIMIT_HEADERS: Final = tuple(
    f"x-ratelimit-{what}-{limit}"
    for limit in ("requests", "tokens")
    for what in ("limit", "remaining", "reset")
)


class HungUp(Exception):
    """The caller is gone: nobody is to be told anything."""


class Front:
    """The application that the server calls."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        has_started = False
        request_id = secrets.token_hex(8)

        async def sending(message: Message) -> None:
            nonlocal has_started
            if message["type"] == "http.response.start":
                has_started = True
                message["headers"].append((b"x-request-id", request_id.encode("latin-1")))
                message["headers"].extend(_rate_limit_headers(scope))
            await send(message)

        scope["app"] = self  # unknown paths and methods become exceptions
        try:
            request_id = _given_id(scope) or request_id
            scope["state"]["request_id"] = request_id
            await self._app(scope, receive, sending)
        except (HungUp, ClientDisconnect):
            return
        except BaseException as error:
            if has_started:
                connection_of(scope).abort()
            else:
                await _tell(scope, receive, sending, _known(error, names_of(scope)))
            if not isinstance(error, (Exception, asyncio.CancelledError)):
                raise


def _rate_limit_headers(scope: Scope) -> Iterator[tuple[bytes, bytes]]:
    """How the limits of the caller's API key stand, where there are any."""
    usage = scope["state"].get("usage", UNLIMITED)
    for allowance in usage.meter.allowances(time.monotonic()):
        for what, value in (
            ("limit", str(allowance.most)),
            ("remaining", str(allowance.remaining)),
            ("reset", _duration(allowance.reset_seconds)),
        ):
            yield f"x-ratelimit-{what}-{allowance.limit}".encode(), value.encode()


def _duration(seconds: float) -> str:
    """As OpenAI tells it, «1m0.5s»."""
    minutes, rest = divmod(round(seconds, 3), 60)
    return f"{minutes:.0f}m{rest:.3g}s" if minutes else f"{rest:.3g}s"


def _given_id(scope: Scope) -> str:
    """Errors: InvalidRequest."""
    for name, value in scope["headers"]:
        if name == b"x-request-id":
            return check_request_id(value.decode("latin-1"))
    return ""


def names_of(scope: Scope) -> FieldNames:
    """What the endpoint of a call calls its fields."""
    names: FieldNames = scope["state"].get(NAMES_OF_CALL, FIELD_NAMES)
    return names


def _known(error: BaseException, names: FieldNames) -> ErrorAnswer:
    if isinstance(error, HTTPException):
        unknown = {404: "there is no such path", 405: "there is no such method of this path"}
        headers = {name.lower(): value for name, value in (error.headers or {}).items()}
        message = unknown.get(error.status_code, error.detail)
        error = HttpError(error.status_code, message, headers=headers)
    if not isinstance(error, Exception):
        error = NoWorkerAvailable("this router stops; try another one")
    return error_answer(error, names)


async def _tell(scope: Scope, receive: Receive, send: Send, answer: ErrorAnswer) -> None:
    """What is still to come of the body is taken, for a while: a caller who is closed upon while it
    sends learns nothing."""
    headers = {
        "content-type": "application/json",
        "content-length": str(len(answer.body)),
        **answer.headers,
    }
    is_early = _BODY_HEADERS.intersection(name for name, _ in scope["headers"]) and not scope[
        "state"
    ].get(BODY_IS_READ)
    if is_early:
        headers["connection"] = "close"
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": answer.status, "headers": raw})
    await send({"type": "http.response.body", "body": answer.body, "more_body": True})
    if is_early:
        await discard(Request(scope, receive))
    await send({"type": "http.response.body", "body": b"", "more_body": False})


@asynccontextmanager
async def ended_by_hang_up(receive: Receive) -> AsyncIterator[None]:
    """Cancels what runs within when the caller hangs up. Errors: HungUp."""
    task = asyncio.current_task()
    assert task is not None
    hung_up = False

    async def watch() -> None:
        nonlocal hung_up
        while (await receive())["type"] != "http.disconnect":
            pass
        hung_up = True
        task.cancel()

    watcher = asyncio.create_task(watch())
    try:
        yield
    except asyncio.CancelledError:
        if hung_up and not task.uncancel():
            raise HungUp from None
        raise
    finally:
        watcher.cancel()


class EventStream:
    """A response of server-sent events."""

    def __init__(self, scope: Scope, send: Send, count: Count) -> None:
        self._connection = connection_of(scope)
        self._send = send
        self._count = count
        self._has_started = False
        self._lock = asyncio.Lock()

    async def write(self, events: bytes) -> None:
        """Errors: Overloaded where the caller takes nothing, which ends its connection."""
        await self._write(events, more=True)

    async def end(self) -> None:
        """Errors: as `write`."""
        await self._write(b"", more=False)

    async def _write(self, body: bytes, *, more: bool) -> None:
        async with self._lock:
            try:
                async with asyncio.timeout(UNREAD_SECONDS):
                    await self._start()
                    await self._send(
                        {"type": "http.response.body", "body": body, "more_body": more}
                    )
            except TimeoutError:
                self._count("unread")
                self._connection.abort()
                raise Overloaded(
                    f"the caller took no event for {UNREAD_SECONDS:g} s", RETRY_SECONDS
                ) from None

    async def _start(self) -> None:
        if self._has_started:
            return
        self._has_started = True
        headers = [
            (b"content-type", b"text/event-stream; charset=utf-8"),
            (b"cache-control", b"no-cache"),
            (b"x-accel-buffering", b"no"),  # nginx would hold events back
        ]
        await self._send({"type": "http.response.start", "status": 200, "headers": headers})


def first_error(group: BaseExceptionGroup[BaseException]) -> Exception:
    """What a call is answered that several requests failed of: an error of ours where there is
    one."""
    known, other = group.split(LengthwiseError)
    found: BaseException = known or other or group
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    assert isinstance(found, Exception)
    return found

"""A request's body → the fields of a JSON object: counted while it arrives, within a deadline, and
refused before anything is built of what is too large."""

import asyncio
import json
from collections import Counter
from typing import Any, Final, NoReturn

from starlette.requests import ClientDisconnect, Request

from lengthwise_router.frontends.http.errors import HttpError
from lengthwise_runtime.calls.places import RETRY_SECONDS, Count
from lengthwise_wire.errors import InvalidRequest, Overloaded

MAX_BODY_BYTES: Final = 16 << 20
"""A prompt of the most text that is accepted, 4 MiB, with every character escaped as JSON may."""

BODY_SECONDS: Final = 20.0
"""A body has arrived by then: as for gRPC."""

LARGE_BYTES: Final = 1 << 16
"""A larger body is parsed in a thread, one at a time, and counts against `MAX_LARGE_BYTES`."""

MAX_LARGE_BYTES: Final = 128 << 20
"""Of all large bodies that arrive at once, or wait to be parsed."""

DISCARDED_BYTES: Final = 64 << 20
"""Of a body that was refused: a client that sends on learns why only if it is let finish."""

DISCARD_SECONDS: Final = 5.0


class Bodies:
    """Reads bodies, of all callers together within bounds."""

    def __init__(self, count: Count) -> None:
        self._count = count
        self._large_bytes = 0
        self._turn = asyncio.Lock()

    async def read(self, request: Request) -> dict[str, Any]:
        """Errors: HttpError, InvalidRequest, Overloaded, ClientDisconnect."""
        media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if media_type != "application/json":
            raise HttpError(
                415,
                f"content-type: got {media_type[:100]!r}, expected 'application/json'",
                code="unsupported_media_type",
            )
        charged = 0
        body = bytearray()
        try:
            async with asyncio.timeout(BODY_SECONDS):
                _check_length(request.headers.get("content-length"))
                async for chunk in request.stream():
                    body += chunk
                    if len(body) > MAX_BODY_BYTES:
                        raise _too_large(f"more than {MAX_BODY_BYTES}")
                    if len(body) > LARGE_BYTES:
                        self._charge(len(body) - charged)
                        charged = len(body)
            if not charged:
                return parsed(body)
            async with self._turn:
                return await asyncio.to_thread(parsed, body)
        except TimeoutError:
            self._count("no_request")
            raise HttpError(
                408, f"the body did not arrive within {BODY_SECONDS:g} s", code="request_timeout"
            ) from None
        finally:
            self._large_bytes -= charged

    def _charge(self, num_bytes: int) -> None:
        if self._large_bytes + num_bytes > MAX_LARGE_BYTES:
            self._count("too_many")
            raise Overloaded(
                f"{self._large_bytes} bytes of large bodies are held, at most {MAX_LARGE_BYTES}",
                RETRY_SECONDS,
            )
        self._large_bytes += num_bytes


async def discard(request: Request) -> None:
    """Takes what is still to come of a body, and forgets it."""
    num_bytes = 0
    try:
        async with asyncio.timeout(DISCARD_SECONDS):
            while num_bytes < DISCARDED_BYTES:
                message = await request.receive()
                num_bytes += len(message.get("body", b""))
                if message["type"] != "http.request" or not message.get("more_body", False):
                    return
    except (TimeoutError, ClientDisconnect):
        return


def parsed(body: bytes | bytearray) -> dict[str, Any]:
    """A JSON object in UTF-8. Errors: InvalidRequest."""
    try:
        text = body.decode()
    except UnicodeDecodeError as error:
        raise InvalidRequest(
            f"the body is not UTF-8: got byte {body[error.start]:#04x} at {error.start}"
        ) from None
    try:
        fields = json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse)
    except RecursionError:
        raise InvalidRequest("the body is nested too deep") from None
    except json.JSONDecodeError as error:
        raise InvalidRequest(f"the body is not JSON: {error}") from None
    except ValueError:  # of int()
        raise InvalidRequest("the body has a number of too many digits") from None
    if not isinstance(fields, dict):
        raise InvalidRequest(f"the body: got {_kind(fields)}, expected an object")
    return fields


def _check_length(length: str | None) -> None:
    """The HTTP parser has seen that it is a number."""
    if length is not None and int(length) > MAX_BODY_BYTES:
        raise _too_large(length)


def _too_large(got: str) -> HttpError:
    return HttpError(
        413,
        f"the body: got {got} bytes, expected at most {MAX_BODY_BYTES}",
        code="request_too_large",
    )


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        ((twice, _),) = Counter(name for name, _ in pairs).most_common(1)
        raise InvalidRequest(f"{twice[:100]!r} is there twice in one object of the body")
    return fields


def _refuse(constant: str) -> NoReturn:
    raise InvalidRequest(f"the body has {constant}, which JSON does not know")


def _kind(value: object) -> str:
    names = {list: "an array", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")

"""A request's body → the fields of a JSON object: counted while it arrives, within a deadline, and
refused before anything is built of what is too large."""

import asyncio
import json
import re
from collections import Counter
from collections.abc import Callable
from typing import Any, Final, NoReturn, TypeVar

from starlette.requests import ClientDisconnect, Request

from lengthwise_router.frontends.http.errors import HttpError
from lengthwise_runtime.calls.places import RETRY_SECONDS, Count
from lengthwise_wire.errors import InvalidRequest, Overloaded

T = TypeVar("T")

MAX_BODY_BYTES: Final = 16 << 20
"""A prompt of the most text that is accepted, 4 MiB, with every character escaped as JSON may."""

BODY_SECONDS: Final = 20.0
"""A body has arrived by then: as for gRPC."""

BODY_IS_READ: Final = "body_is_read"
"""What the state of a request says then."""

LARGE_BYTES: Final = 1 << 16
"""A larger body is parsed in a thread, one at a time, and counts against `MAX_LARGE_BYTES`."""

MAX_VALUES: Final = 1 << 16
"""In a body, beside the ids of a prompt: 4096 messages have some 20,000. What is parsed in one go
holds up all else: 16 MiB of small numbers or objects did so for 1.8 s."""

_STRING_OR_COMMA: Final = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"?|,', re.DOTALL)

MAX_LARGE_BYTES: Final = 128 << 20
"""Of all large bodies that arrive at once, or wait to be parsed."""

DISCARDED_BYTES: Final = 64 << 20
"""Of a body that was refused: a client that sends on learns why only if it is let finish."""

DISCARD_SECONDS: Final = 5.0


class Bodies:
    """Reads bodies, of all callers together within bounds."""

    def __init__(self, count: Count, max_tokens: int) -> None:
        """`max_tokens`: no list of ids that is accepted has more."""
        self._count = count
        self._max_values = max_tokens + MAX_VALUES
        self._large_bytes = 0
        self._turn = asyncio.Lock()

    async def read(self, request: Request, make: Callable[[dict[str, Any]], T]) -> T:
        """What `make` makes of the body's fields, in a thread where they are large.

        Errors: HttpError, InvalidRequest, Overloaded, ClientDisconnect.
        """
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
                        raise _too_large(f"more than {MAX_BODY_BYTES} bytes")
                    if len(body) > LARGE_BYTES:
                        self._charge(len(body) - charged)
                        charged = len(body)
            setattr(request.state, BODY_IS_READ, True)
            if not charged:
                return make(parsed(body, self._max_values))
            async with self._turn:
                return await asyncio.to_thread(lambda: make(parsed(body, self._max_values)))
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


def parsed(body: bytes | bytearray, max_values: int) -> dict[str, Any]:
    """A JSON object in UTF-8. Errors: HttpError, InvalidRequest."""
    _check_num_values(body, max_values)
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


def _check_num_values(body: bytes | bytearray, most: int) -> None:
    """Values are divided by commas, which texts may have too."""
    if body.count(b",") <= most:
        return
    count = 0
    for match in _STRING_OR_COMMA.finditer(body):  # step by step, so that others have their turn
        count += match[0] == b","
        if count > most:
            raise _too_large(f"more than {most} values", f"{most} values")


def _check_length(length: str | None) -> None:
    """The HTTP parser has seen that it is a number."""
    if length is not None and int(length) > MAX_BODY_BYTES:
        raise _too_large(f"{length} bytes")


def _too_large(got: str, most: str = f"{MAX_BODY_BYTES} bytes") -> HttpError:
    return HttpError(413, f"the body: got {got}, expected at most {most}", code="request_too_large")


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

"""HTTP connections that strangers make: each costs bounded memory for a bounded time.

uvicorn's protocol bounds neither what comes before a request's headers are complete, nor what is
left of an answer that is not taken, nor how many connections there are.
"""

import asyncio
import json
from collections.abc import Mapping
from typing import Any, Final

from starlette.types import Scope
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.server import ServerState

from lengthwise_runtime.calls.bounded_call import UNREAD_SECONDS
from lengthwise_runtime.tls.contexts import PeerCertificate

HEADER_SECONDS: Final = 10.0
"""From the connection, or a request's first byte, to the end of its headers."""

IDLE_SECONDS: Final = 60
"""Between requests."""

MAX_CONNECTIONS: Final = 4096
"""One more closes the one that has been idle for longest."""

MAX_HEADER_BYTES: Final = 32 << 10

MAX_HEADERS: Final = 100

EXTENSION: Final = "lengthwise.connection"


class Connections(ServerState):
    """All of one listener."""

    def __init__(self) -> None:
        super().__init__()
        self.idle: dict[BoundedConnection, None] = {}
        """Those that serve no request; the longest idle first."""


class BoundedConnection(HttpToolsProtocol):
    """One connection. Life: as asyncio has it."""

    def __init__(self, config: Config, connections: "Connections") -> None:
        super().__init__(config, connections, {})
        self._idle = connections.idle
        self._header_bytes = 0
        self._num_headers = 0
        self._in_headers = True
        self._has_headers = False  # all of a request's, in what was received last
        self._waiting: asyncio.TimerHandle | None = None
        self._refusal = 400, "expected a request of HTTP/1.1"

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.peer = PeerCertificate(transport.get_extra_info("ssl_object"))
        if len(self.connections) > MAX_CONNECTIONS:
            longest_idle = next(iter(self._idle), self)
            longest_idle.abort()
            self._idle.pop(longest_idle, None)
        self._idle[self] = None
        self._expect_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        self._idle.pop(self, None)
        self._stop_waiting()
        self._unset_keepalive_if_required()
        super().connection_lost(exc)

    def abort(self) -> None:
        """Ends it now, whatever it has not sent."""
        self.transport.abort()

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        if self._in_headers:
            self._expect_headers()
        goes_on, before = self._in_headers, self._header_bytes
        self._has_headers = False
        super().data_received(data)
        goes_on = goes_on and self._in_headers and not self._has_headers
        if goes_on and not self.transport.is_closing():
            # What the parser has not reported yet is a header that goes on and on.
            self._header_bytes = max(self._header_bytes, before + len(data))
            if self._header_bytes > MAX_HEADER_BYTES:
                self._refusal = 431, f"expected at most {MAX_HEADER_BYTES} bytes of headers"
                self.send_400_response("")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_headers = True
        self._header_bytes = self._num_headers = 0
        self.scope["extensions"] = {EXTENSION: self}  # type: ignore[dict-item]

    def on_url(self, url: bytes) -> None:
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._num_headers += 1
        self._count(len(name) + len(value))
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._in_headers, self._has_headers = False, True
        self._header_bytes = 0
        self._stop_waiting()
        self._idle.pop(self, None)
        super().on_headers_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.transport.is_closing():
            self.loop.call_later(UNREAD_SECONDS, self.abort)  # where the answer is not taken
        elif self.cycle.response_complete:
            self._in_headers = True
            self._idle[self] = None

    def timeout_keep_alive_handler(self) -> None:
        if self.transport.get_write_buffer_size():
            self.abort()
        super().timeout_keep_alive_handler()

    def send_400_response(self, msg: str) -> None:
        """Of what is no request: as an error object."""
        status, message = self._refusal
        error = {"message": message, "type": "invalid_request_error", "param": None, "code": None}
        body = json.dumps({"error": error}).encode()
        self.transport.write(
            STATUS_LINE[status]
            + b"content-type: application/json\r\nconnection: close\r\n"
            + b"content-length: %d\r\n\r\n" % len(body)
            + body
        )
        self.transport.close()
        self.loop.call_later(UNREAD_SECONDS, self.abort)

    def _count(self, num_bytes: int) -> None:
        """Errors: ValueError, which the parser makes one of its own."""
        self._header_bytes += num_bytes
        if self._header_bytes > MAX_HEADER_BYTES or self._num_headers > MAX_HEADERS:
            self._refusal = (
                431,
                f"expected at most {MAX_HEADERS} headers of {MAX_HEADER_BYTES} bytes in all",
            )
            raise ValueError("too many headers")

    def _expect_headers(self) -> None:
        if self._waiting is None:
            self._waiting = self.loop.call_later(HEADER_SECONDS, self.abort)

    def _stop_waiting(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None


def connection_of(scope: Scope | Mapping[str, Any]) -> BoundedConnection:
    """That a request came on."""
    connection: BoundedConnection = scope["extensions"][EXTENSION]
    return connection

"""HTTP beside gRPC: metrics and probes, by a thread of its own with an event loop of its own, so
that they answer while the process's is stuck.

Whatever callers do, they take a bounded number of connections for a bounded time, and at most a
tenth of a processor for rendering metrics.
"""

import asyncio
import contextlib
import logging
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial

import h11
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4, CollectorRegistry, generate_latest

from lengthwise_runtime.config import Address

logger = logging.getLogger(__name__)

MAX_CONNECTIONS = 256
"""One more closes the oldest: who asks at once is answered, however many others only connect."""

REQUEST_SECONDS = 5.0
"""From the connection to the last byte of the answer."""

MAX_REQUEST_BYTES = 16_384

RENDERING_SHARE = 0.1
"""Of the time at most. Scrapes that come sooner wait for the next rendering, together."""

PAUSE_SECONDS = 0.5
"""After the system had no file descriptor for a connection."""

Probe = Callable[[], str]
"""Why the answer is 503; empty where it is 200. Called in the server's thread."""


class MetricsServer:
    """Life: construct, which binds and serves; `close`."""

    def __init__(
        self,
        address: Address,
        registry: CollectorRegistry,
        probes: Mapping[str, Probe],
        tls: ssl.SSLContext | None,
    ) -> None:
        """Errors: OSError when the address cannot be bound."""
        family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
        self._listener = socket.create_server(
            (address.host, address.port), family=family, backlog=MAX_CONNECTIONS
        )
        self._listener.setblocking(False)
        self.address = Address(address.host, self._listener.getsockname()[1])
        self._registry = registry
        self._probes = probes
        self._tls = tls
        self._oldest_first: dict[asyncio.Task[None], None] = {}
        self._next_rendering: asyncio.Task[bytes] | None = None
        self._may_render_at = 0.0
        self._loop = asyncio.new_event_loop()
        self._accepting = self._loop.create_task(self._accept())
        self._thread = threading.Thread(target=self._run, name="metrics", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Returns when nothing listens any more."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._accepting.cancel)
            self._thread.join(REQUEST_SECONDS)

    def _run(self) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            self._loop.run_until_complete(self._accepting)
        self._listener.close()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.run_until_complete(asyncio.sleep(0.01))  # in which they end
        self._loop.close()

    async def _accept(self) -> None:
        while True:
            try:
                connection, _ = await self._loop.sock_accept(self._listener)
            except OSError as error:
                logger.warning("/metrics accepts no connection for a moment: %s", error)
                await asyncio.sleep(PAUSE_SECONDS)
                continue
            if len(self._oldest_first) >= MAX_CONNECTIONS:
                oldest = next(iter(self._oldest_first))
                del self._oldest_first[oldest]
                oldest.cancel()
            task = self._loop.create_task(self._serve(connection))
            self._oldest_first[task] = None
            task.add_done_callback(partial(self._served, connection))

    def _served(self, connection: socket.socket, task: asyncio.Task[None]) -> None:
        self._oldest_first.pop(task, None)
        connection.close()  # a task that was cancelled before it began has not

    async def _serve(self, connection: socket.socket) -> None:
        """One request, one answer."""
        reader = asyncio.StreamReader(MAX_REQUEST_BYTES)
        writer: asyncio.StreamWriter | None = None
        try:
            async with asyncio.timeout(REQUEST_SECONDS):
                protocol = asyncio.StreamReaderProtocol(reader)
                transport, _ = await self._loop.connect_accepted_socket(
                    lambda: protocol, connection, ssl=self._tls
                )
                writer = asyncio.StreamWriter(transport, protocol, reader, self._loop)
                writer.write(await self._answer(reader))
                await writer.drain()
                writer.close()
                await writer.wait_closed()
        except (OSError, TimeoutError) as error:
            logger.debug("a caller of /metrics is gone: %s", error)
        finally:
            if writer is not None:
                writer.transport.abort()

    async def _answer(self, reader: asyncio.StreamReader) -> bytes:
        """The bytes of a whole answer."""
        http = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_REQUEST_BYTES)
        is_head = False
        try:
            while (request := http.next_event()) is h11.NEED_DATA:
                http.receive_data(await reader.read(MAX_REQUEST_BYTES))
            if not isinstance(request, h11.Request):
                return b""  # hung up before it asked
            is_head = request.method == b"HEAD"
            status, content_type, body = await self._content(request)
        except h11.RemoteProtocolError as error:
            status, content_type = error.error_status_hint, "text/plain; charset=utf-8"
            body = f"{error}\n".encode()
        headers = [
            ("Content-Type", content_type),
            ("Content-Length", str(len(body))),
            ("Connection", "close"),
        ]
        parts = [
            http.send(h11.Response(status_code=status, headers=headers)),
            http.send(h11.Data(data=b"" if is_head else body)),
            http.send(h11.EndOfMessage()),
        ]
        return b"".join(part or b"" for part in parts)

    async def _content(self, request: h11.Request) -> tuple[int, str, bytes]:
        """Status, type and body."""
        if request.method not in (b"GET", b"HEAD"):
            return 405, "text/plain; charset=utf-8", b"expected GET or HEAD\n"
        probe = self._probes.get(request.target.split(b"?")[0].decode(errors="replace"))
        if probe is None:
            return 200, CONTENT_TYPE_PLAIN_0_0_4, await asyncio.shield(self._rendering())
        reason = probe()
        body = f"{reason or 'ok'}\n".encode()
        return 503 if reason else 200, "text/plain; charset=utf-8", body

    def _rendering(self) -> "asyncio.Task[bytes]":
        """One that begins from now on, for all who ask until then."""
        if self._next_rendering is None:
            self._next_rendering = self._loop.create_task(self._render())
        return self._next_rendering

    async def _render(self) -> bytes:
        await asyncio.sleep(self._may_render_at - time.monotonic())
        self._next_rendering = None
        began_at, used = time.monotonic(), time.thread_time()
        text = generate_latest(self._registry)
        # Processor time: on a busy machine the same work lasts longer.
        seconds = time.thread_time() - used
        self._may_render_at = began_at + seconds / RENDERING_SHARE
        return text

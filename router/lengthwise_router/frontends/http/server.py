"""HTTP on the process's own event loop, by uvicorn's protocol.

Without its `Server`, which has signals, sockets and polling of its own: the process owns signals,
and what is drained has ended before this stops.
"""

import asyncio
import logging
from email.utils import formatdate
from typing import NoReturn

import uvicorn
from starlette.types import ASGIApp

from lengthwise_router.frontends.http.connections import (
    HEADER_SECONDS,
    IDLE_SECONDS,
    BoundedConnection,
    Connections,
)
from lengthwise_runtime.config import Address, ConfigError
from lengthwise_runtime.tls.config import TlsConfig
from lengthwise_runtime.tls.contexts import server_context

# What callers send is nothing that an operator has to be warned of.
logging.getLogger("uvicorn.error").setLevel(logging.ERROR)

BACKLOG = 1024

GRACE_SECONDS = 0.5
"""For answers whose requests have ended when the server stops."""


class HttpServer:
    """Life: construct, `start`, `run` for ever; `stop`."""

    def __init__(self, app: ASGIApp, listen: str, tls: TlsConfig | None) -> None:
        """Errors: ConfigError."""
        self._listen = Address.parse(listen)
        self._tls = None if tls is None else server_context(tls, "tls")
        self._state = Connections()
        self._config = uvicorn.Config(
            app,
            http=BoundedConnection,
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            timeout_keep_alive=IDLE_SECONDS,
        )
        self._config.load()

    async def start(self) -> Address:
        """Binds and serves; returns the bound address. Errors: ConfigError."""
        self._tick()
        try:
            self._server = await asyncio.get_running_loop().create_server(
                lambda: BoundedConnection(self._config, self._state),
                self._listen.host,
                self._listen.port,
                ssl=self._tls,
                ssl_handshake_timeout=None if self._tls is None else HEADER_SECONDS,
                backlog=BACKLOG,
            )
        except OSError as error:
            raise ConfigError(f"cannot serve HTTP on {self._listen}: {error.strerror}") from error
        return Address(self._listen.host, self._server.sockets[0].getsockname()[1])

    async def run(self) -> NoReturn:
        """Keeps the time that answers carry."""
        while True:
            await asyncio.sleep(1.0)
            self._tick()

    async def stop(self) -> None:
        """Takes no more connections, and ends what is left of the others after the grace period."""
        self._server.close()
        connections = self._state.connections
        for connection in list(connections):
            connection.shutdown()
        give_up_at = asyncio.get_running_loop().time() + GRACE_SECONDS
        while connections and asyncio.get_running_loop().time() < give_up_at:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        for connection in list(connections):
            connection.transport.abort()
        if tasks := set(self._state.tasks):
            # They end because their callers are gone.
            _, others = await asyncio.wait(tasks, timeout=GRACE_SECONDS)
            for task in others:
                task.cancel()

    def _tick(self) -> None:
        self._state.default_headers = [(b"date", formatdate(usegmt=True).encode())]

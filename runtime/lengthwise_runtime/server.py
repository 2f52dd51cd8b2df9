"""A process's gRPC server: health, reflection, limits, keepalive, TLS, drain."""

import logging
from collections.abc import Sequence

from grpc_health.v1 import health, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc

from lengthwise_runtime.calls.acceptor import accepting_server
from lengthwise_runtime.calls.places import Count
from lengthwise_runtime.channel import KEEPALIVE_OPTIONS, MESSAGE_OPTIONS
from lengthwise_runtime.config import Address, ConfigError
from lengthwise_runtime.handlers import MAX_CALLS, GuardedServer
from lengthwise_runtime.health import HealthService, Liveness
from lengthwise_runtime.tls.callers import CallerCheck, Check, permit
from lengthwise_runtime.tls.config import TlsConfig
from lengthwise_runtime.tls.credentials import server_credentials
from lengthwise_wire.limits import MAX_PROMPT_TOKENS

logger = logging.getLogger(__name__)

LIVE = "live"
"""What liveness probes ask health for: serving until the process stops, draining or not."""

MAX_CONNECTIONS = 4096
"""Of all callers of one port; one more is closed."""

_SERVER_OPTIONS = (
    *KEEPALIVE_OPTIONS,
    *MESSAGE_OPTIONS,
    # Peers ping every 2-3 s; gRPC's default policy would take that for abuse.
    ("grpc.http2.min_ping_interval_without_data_ms", 1_000),
    ("grpc.http2.max_ping_strikes", 0),
    # Two processes must never share a port unnoticed.
    ("grpc.so_reuseport", 0),
    # A connection that does not get as far as HTTP/2 is closed; gRPC's default is 120 s.
    ("grpc.server_handshake_timeout_ms", 10_000),
    ("grpc.max_allowed_incoming_connections", MAX_CONNECTIONS),
)


def _limits(max_calls: int) -> tuple[tuple[str, int], ...]:
    """gRPC's own lie above ours: what it refuses itself is a bare CANCELLED, and counted nowhere.

    Clients that keep to the protocol hold back calls beyond those of one connection. A stopped or
    busy event loop finds all that came meanwhile, which gRPC's default begins to refuse at 1000, or
    after 30 s.
    """
    return (
        ("grpc.max_concurrent_streams", max_calls),
        ("grpc.server.max_pending_requests", 4 * max_calls),
        ("grpc.server.max_pending_requests_hard_limit", 4 * max_calls),
        ("grpc.server_max_unrequested_time_in_server", 600),
    )


class Server:
    """Life: construct, `register` servicers through `guarded`, `start`, `drain`."""

    def __init__(
        self,
        listen: str,
        tls: TlsConfig | None,
        services: Sequence[str],
        liveness: Liveness | None = None,
        *,
        count: Count = lambda _: None,
        max_calls: int = MAX_CALLS,
        max_tokens: int = MAX_PROMPT_TOKENS,
        check: Check = permit,
    ) -> None:
        """`services`: full names, for reflection and health. `liveness`: of a process that outlives
        this server. `count`: called for each call that the server itself refuses or ends;
        `max_calls` of each service may run at once; `max_tokens`: in one
        list of a request; `check`: what calls of the services have to
        pass, beside what `tls` says of callers, before their request is read."""
        self._listen = Address.parse(listen)
        self._tls = tls
        self._services = tuple(services)
        self._server = accepting_server((*_SERVER_OPTIONS, *_limits(max_calls)))
        callers = CallerCheck(tls.callers if tls is not None else None)
        self.guarded = GuardedServer(self._server, callers, count, max_calls, max_tokens, check)
        self._health = HealthService()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self.guarded)
        names = (*services, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection_pb2_grpc.add_ServerReflectionServicer_to_server(
            reflection.aio.ReflectionServicer(names),  # type: ignore[attr-defined]  # not in __all__
            self.guarded,
        )
        self.liveness = liveness or Liveness()

    async def start(self) -> Address:
        """Binds and serves; returns the bound address. Errors: ConfigError when the port is
        taken, or files of TLS cannot be used."""
        credentials = server_credentials(self._tls) if self._tls is not None else None
        try:
            if credentials is None:
                port = self._server.add_insecure_port(str(self._listen))
            else:
                port = self._server.add_secure_port(str(self._listen), credentials)
        except RuntimeError as error:
            raise ConfigError(
                f"cannot listen on {self._listen}: {error}; is the port in use?"
            ) from error
        self._health.set({LIVE: True})
        await self._server.start()
        self.liveness.start()
        return Address(self._listen.host, port)

    async def set_serving(self, serving: bool) -> None:
        """The answer to health probes, for the process and each service."""
        self._health.set(dict.fromkeys(("", *self._services), serving))
        self.liveness.serving = serving

    async def stop(self, grace_seconds: float) -> None:
        """Refuses new calls at once and ends running ones after the grace period."""
        self._health.set(dict.fromkeys(("", LIVE, *self._services), False))
        await self._server.stop(grace_seconds)

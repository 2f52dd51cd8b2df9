"""A process's gRPC server: health, reflection, keepalive, TLS, drain."""

import logging
from collections.abc import Sequence

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from lengthwise_runtime.channel import KEEPALIVE_OPTIONS, MESSAGE_OPTIONS
from lengthwise_runtime.config import Address, ConfigError, TlsConfig
from lengthwise_runtime.handlers import GuardedServer
from lengthwise_runtime.health import Liveness

logger = logging.getLogger(__name__)

LIVE = "live"
"""What liveness probes ask health for: serving until the process stops, draining or not."""

_SERVER_OPTIONS = (
    *KEEPALIVE_OPTIONS,
    *MESSAGE_OPTIONS,
    # Peers ping every 2-3 s; gRPC's default policy would take that for abuse.
    ("grpc.http2.min_ping_interval_without_data_ms", 1_000),
    ("grpc.http2.max_ping_strikes", 0),
    # Two processes must never share a port unnoticed.
    ("grpc.so_reuseport", 0),
)


class Server:
    """Life: construct, `register` servicers through `guarded`, `start`, `drain`."""

    def __init__(
        self,
        listen: str,
        tls: TlsConfig | None,
        services: Sequence[str],
        liveness: Liveness | None = None,
    ) -> None:
        """`services`: full names, for reflection and health. `liveness`: of a process that outlives
        this server."""
        self._listen = Address.parse(listen)
        self._tls = tls
        self._services = tuple(services)
        self._server = grpc.aio.server(options=_SERVER_OPTIONS)
        self._health = health.aio.HealthServicer()  # type: ignore[attr-defined]  # absent from the stubs
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflection.enable_server_reflection(
            (*services, health.SERVICE_NAME, reflection.SERVICE_NAME), self._server
        )
        self.guarded = GuardedServer(self._server)
        self.liveness = liveness or Liveness()

    async def start(self) -> Address:
        """Binds and serves; returns the bound address. Errors: ConfigError when the port is
        taken."""
        try:
            if self._tls is None:
                port = self._server.add_insecure_port(str(self._listen))
            else:
                port = self._server.add_secure_port(str(self._listen), _credentials(self._tls))
        except RuntimeError as error:
            raise ConfigError(
                f"cannot listen on {self._listen}: {error}; is the port in use?"
            ) from error
        await self._health.set(LIVE, health_pb2.HealthCheckResponse.SERVING)
        await self._server.start()
        self.liveness.start()
        return Address(self._listen.host, port)

    async def set_serving(self, serving: bool) -> None:
        """The answer to health probes, for the process and each service."""
        status = (
            health_pb2.HealthCheckResponse.SERVING
            if serving
            else health_pb2.HealthCheckResponse.NOT_SERVING
        )
        for name in ("", *self._services):
            await self._health.set(name, status)
        self.liveness.serving = serving

    async def stop(self, grace_seconds: float) -> None:
        """Refuses new calls at once and ends running ones after the grace period."""
        await self._health.enter_graceful_shutdown()
        await self._server.stop(grace_seconds)


def _credentials(tls: TlsConfig) -> grpc.ServerCredentials:
    authority = tls.authority.read_bytes() if tls.authority else None
    return grpc.ssl_server_credentials(
        [(tls.private_key.read_bytes(), tls.certificate.read_bytes())],
        root_certificates=authority,
        require_client_auth=authority is not None,
    )

"""What stays of a worker when its role changes: where it is reached, and its metrics endpoint.

A metric is shown while its role serves: no gauge may report of a worker that has gone.
"""

from prometheus_client import CollectorRegistry

from lengthwise_runtime.health import Liveness
from lengthwise_runtime.metrics import serve_metrics
from lengthwise_runtime.status import SetRole, keep_role
from lengthwise_worker.config import WorkerConfig


class WorkerEndpoint:
    """Passed from each role to the next."""

    def __init__(self, config: WorkerConfig, set_role: SetRole = keep_role) -> None:
        self.set_role = set_role
        self.listen = config.listen
        """After the first start with the port that was bound."""
        self.liveness = Liveness()
        self.registry = CollectorRegistry()
        """Of the process; those of roles come and go in it."""
        self._config = config
        self._metrics_address: str | None = None

    @property
    def is_flexible(self) -> bool:
        return self.set_role is not keep_role

    def serve_metrics(self) -> str:
        """Until the process ends; returns the address, empty where none is configured. Safe to call
        again. Errors: ConfigError."""
        if self._metrics_address is None:
            config = self._config
            served = serve_metrics(
                config.metrics_listen, self.registry, self.liveness, config.metrics_tls
            )
            self._metrics_address = str(served.address) if served else ""
        return self._metrics_address

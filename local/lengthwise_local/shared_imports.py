"""What the processes of local clusters import is imported once: they begin as forks of one process.

That process lives as long as a cluster does. A process whose environment differs from its
environment is started anew instead: libraries read theirs when they are imported.
"""

import sys
from collections.abc import Mapping

from lengthwise_engine.forks.server import ForkServer

MODULES = (
    *("lengthwise_worker.application", "lengthwise_prefill_worker.app"),
    *("lengthwise_decode_worker.app", "lengthwise_flexible_worker.app", "lengthwise_router.app"),
    "lengthwise_engine.transfer.supervisor.child_main",
    "lengthwise_engine.tensor_parallel.rank_main",
)

READ_LATE = ("LENGTHWISE_", "NCCL_HOSTID", "OTEL_", "PYTEST_CURRENT_TEST")
"""What the names of variables begin with that no library reads while it is imported."""


class SharedImports:
    """Of one process that runs local clusters."""

    def __init__(self) -> None:
        self._users: set[object] = set()
        self._server: ForkServer | None = None
        self._environment: dict[str, str] = {}

    def acquire(self, user: object) -> None:
        """From now on processes are forked, until no user is left."""
        self._users.add(user)

    def release(self, user: object) -> None:
        self._users.discard(user)
        if not self._users:
            self.close()

    def server(self, env: Mapping[str, str]) -> ForkServer | None:
        """Where a process with this environment can be forked; None: nowhere. Raises OSError."""
        if not self._users or sys.platform != "linux":
            return None
        environment = {k: v for k, v in env.items() if not k.startswith(READ_LATE)}
        if self._server is None:
            self._server = ForkServer.spawn(MODULES, env)
            self._environment = environment
        return self._server if environment == self._environment else None

    def close(self) -> None:
        server, self._server = self._server, None
        if server is not None:
            server.close()


shared_imports = SharedImports()

"""A worker that changes between the roles: one engine, and over it one worker at a time.

    serving ──SetRole──▶ draining as the old role ──▶ free ──▶ opening as the new one ──▶ serving
                                   │                    │              │
                                   └──── not in time, or an error ─────┴──▶ the process ends

The roles are those of the plain workers; neither knows of the other. A change either ends in time
or ends the process, whose supervisor starts a clean one: requests of the old worker go on elsewhere
in either case.
"""

import asyncio
import logging
import time

from lengthwise_decode_worker.app import DecodeWorker
from lengthwise_engine.errors import EngineError
from lengthwise_flexible_worker.config import FlexibleWorkerConfig
from lengthwise_flexible_worker.metrics import RoleChanges
from lengthwise_policy.types import Role
from lengthwise_prefill_worker.app import PrefillWorker
from lengthwise_runtime.status import RoleRefused
from lengthwise_worker.endpoint import WorkerEndpoint
from lengthwise_worker.engine import STEP_SECONDS, start_engine
from lengthwise_worker.role_worker import RoleWorker

logger = logging.getLogger(__name__)

CHANGE_MARGIN_SECONDS = 20.0
"""Beyond `drain_seconds` and `stall_seconds`: the limits of a drain's last steps, added up."""


class RoleChangeFailed(EngineError):
    """The worker has neither role, and cannot take on the wanted one."""


class FlexibleApplication:
    """See `runtime.process.Application`."""

    def __init__(self, config: FlexibleWorkerConfig) -> None:
        self._config = config
        self._endpoint = WorkerEndpoint(config, self.set_role)
        self._changes = RoleChanges(self._endpoint.registry)
        self._role = config.role
        self._worker: RoleWorker | None = None
        self._change: asyncio.Task[None] | None = None
        self._leaving = False

    @property
    def address(self) -> str:
        return self._endpoint.listen

    async def start(self) -> None:
        self._failure: asyncio.Future[BaseException] = asyncio.get_running_loop().create_future()
        self._engine = await start_engine(self._config)
        try:
            self._worker = await self._open(self._role)
        except BaseException:
            await self._engine.stop()
            raise

    async def failed(self) -> BaseException:
        engine = asyncio.create_task(self._engine.failed())
        try:
            await asyncio.wait((engine, self._failure), return_when=asyncio.FIRST_COMPLETED)
            return self._failure.result() if self._failure.done() else engine.result()
        finally:
            engine.cancel()

    async def drain(self) -> None:
        """A change under way ends with the old role, unless it is beyond that."""
        self._leaving = True
        if self._change is not None:
            await self._change
        if self._worker is not None:
            await self._worker.drain()
        await self._engine.stop()

    def set_role(self, role: Role) -> Role:
        """Begins the change; see `lengthwise_runtime.status.SetRole`."""
        if self._leaving:
            raise RoleRefused("this worker is draining and will be gone; ask another one")
        if self._change is not None:
            raise RoleRefused("this worker changes its role already; ask again when it has")
        if role != self._role:
            self._change = asyncio.create_task(self._change_to(role), name=f"change to {role}")
        return self._role

    async def _change_to(self, role: Role) -> None:
        """Never raises: a change that fails is what `failed` waits for."""
        config, began_at = self._config, time.monotonic()
        limit = config.drain_seconds + config.stall_seconds + CHANGE_MARGIN_SECONDS
        logger.info("changing from %s to %s", self._role, role)
        try:
            async with asyncio.timeout(limit):
                await self._close()
                if not self._leaving:
                    self._worker = await self._open(role)
        except Exception as error:
            self._leaving = True
            reason = f"not done within {limit:g} s" if isinstance(error, TimeoutError) else error
            failure = RoleChangeFailed(f"the change from {self._role} to {role} failed: {reason}")
            failure.__cause__ = error
            self._failure.set_result(failure)
        else:
            if self._worker is not None:
                self._role = role
                self._changes.changed_to(role)
                logger.info("changed to %s in %.1f s", role, time.monotonic() - began_at)
        finally:
            self._change = None

    async def _close(self) -> None:
        """Ends the present role. Errors: EngineError when it still uses the engine."""
        worker, self._worker = self._worker, None
        assert worker is not None  # one serves
        if not await worker.drain():
            raise EngineError(f"the engine is still in a step after {STEP_SECONDS:g} s")
        if not await self._engine.is_free():
            raise EngineError("KV transfers still use the cache")

    async def _open(self, role: Role) -> RoleWorker:
        """Errors: ConfigError when the address is taken."""
        worker: RoleWorker
        if role == "prefill":
            worker = PrefillWorker(self._config.as_prefill(), self._engine, self._endpoint)
        else:
            worker = DecodeWorker(self._config.as_decode(), self._engine, self._endpoint)
        await worker.start()
        return worker

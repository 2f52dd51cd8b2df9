"""The process of a worker that serves one role for all its life."""

from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from lengthwise_worker.config import WorkerConfig
from lengthwise_worker.endpoint import Site
from lengthwise_worker.engine import Engine, start_engine

C = TypeVar("C", bound=WorkerConfig)


class RoleWorker(Protocol):
    """A worker over an engine that is there already, and stays."""

    @property
    def address(self) -> str:
        """host:port that it advertises, once started."""

    async def start(self) -> None:
        """Returns when it serves. Errors: ConfigError when its address is taken."""

    async def drain(self) -> bool:
        """Refuses new work, finishes what runs, or gives it back, within `drain_seconds`; then it
        is gone: nothing listens, no link is open. False: the engine thread has not ended in time,
        and still uses the engine."""


class WorkerApplication(Generic[C]):
    """See `runtime.process.Application`."""

    def __init__(self, config: C, build: Callable[[C, Engine, Site], RoleWorker]) -> None:
        self._config = config
        self._build = build

    @property
    def address(self) -> str:
        return self._worker.address

    async def start(self) -> None:
        self._engine = await start_engine(self._config)
        self._worker = self._build(self._config, self._engine, Site(self._config))
        try:
            await self._worker.start()
        except BaseException:
            await self._engine.stop()
            raise

    async def failed(self) -> BaseException:
        return await self._engine.failed()

    async def drain(self) -> None:
        await self._worker.drain()
        await self._engine.stop()

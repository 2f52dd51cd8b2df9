"""The process of a worker that serves one role for all its life."""

from collections.abc import Callable
from typing import Generic, TypeVar

from lengthwise_checkpoint.errors import CheckpointError
from lengthwise_engine.errors import EngineError
from lengthwise_engine.forks.server import fork_own_server
from lengthwise_runtime.process import run_process
from lengthwise_worker.config import WorkerConfig
from lengthwise_worker.endpoint import WorkerEndpoint
from lengthwise_worker.engine import Engine, start_engine
from lengthwise_worker.role_worker import RoleWorker

C = TypeVar("C", bound=WorkerConfig)

CHILD_MODULES = (
    "lengthwise_engine.transfer.supervisor.child_main",
    "lengthwise_engine.tensor_parallel.rank_main",
)
"""What the processes run that a worker starts."""


class WorkerApplication(Generic[C]):
    """See `runtime.process.Application`."""

    def __init__(self, config: C, build: Callable[[C, Engine, WorkerEndpoint], RoleWorker]) -> None:
        self._config = config
        self._build = build

    @property
    def address(self) -> str:
        return self._worker.address

    async def start(self) -> None:
        self._engine = await start_engine(self._config)
        try:
            self._worker = self._build(self._config, self._engine, WorkerEndpoint(self._config))
            await self._worker.start()
        except BaseException:
            await self._engine.stop()
            raise

    async def failed(self) -> BaseException:
        return await self._engine.failed()

    async def drain(self) -> None:
        await self._worker.drain()
        await self._engine.stop()


def run_worker(
    name: str, config_class: type[C], build: Callable[[C, Engine, WorkerEndpoint], RoleWorker]
) -> None:
    """Entry point of the process; see `run_process`."""
    fork_own_server(*CHILD_MODULES)
    run_process(
        name,
        config_class,
        lambda config: WorkerApplication(config, build),
        (EngineError, CheckpointError),
    )

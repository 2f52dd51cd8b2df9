"""`python -m lengthwise_flexible_worker --config FILE`."""

from lengthwise_checkpoint.errors import CheckpointError
from lengthwise_engine.errors import EngineError
from lengthwise_engine.forks.server import fork_own_server
from lengthwise_flexible_worker.app import FlexibleApplication
from lengthwise_flexible_worker.config import FlexibleWorkerConfig
from lengthwise_runtime.process import run_process
from lengthwise_worker.application import CHILD_MODULES


def main() -> None:
    fork_own_server(*CHILD_MODULES)
    run_process(
        "flexible-worker", FlexibleWorkerConfig, FlexibleApplication, (EngineError, CheckpointError)
    )


if __name__ == "__main__":
    main()

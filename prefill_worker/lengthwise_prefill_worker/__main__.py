"""`python -m lengthwise_prefill_worker --config FILE`."""

from lengthwise_checkpoint.errors import CheckpointError
from lengthwise_engine.errors import EngineError
from lengthwise_prefill_worker.app import prefill_application
from lengthwise_prefill_worker.config import PrefillWorkerConfig
from lengthwise_runtime.process import run_process


def main() -> None:
    run_process(
        "prefill-worker", PrefillWorkerConfig, prefill_application, (EngineError, CheckpointError)
    )


if __name__ == "__main__":
    main()

"""`python -m lengthwise_decode_worker --config FILE`."""

from lengthwise_checkpoint.errors import CheckpointError
from lengthwise_decode_worker.app import decode_application
from lengthwise_decode_worker.config import DecodeWorkerConfig
from lengthwise_engine.errors import EngineError
from lengthwise_runtime.process import run_process


def main() -> None:
    run_process(
        "decode-worker", DecodeWorkerConfig, decode_application, (EngineError, CheckpointError)
    )


if __name__ == "__main__":
    main()

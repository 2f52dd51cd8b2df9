"""`python -m lengthwise_decode_worker --config FILE`."""

from lengthwise_decode_worker.app import DecodeWorker
from lengthwise_decode_worker.config import DecodeWorkerConfig
from lengthwise_worker.application import run_worker


def main() -> None:
    run_worker("decode-worker", DecodeWorkerConfig, DecodeWorker)


if __name__ == "__main__":
    main()

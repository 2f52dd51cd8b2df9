"""`python -m lengthwise_prefill_worker --config FILE`."""

from lengthwise_prefill_worker.app import PrefillWorker
from lengthwise_prefill_worker.config import PrefillWorkerConfig
from lengthwise_worker.application import run_worker


def main() -> None:
    run_worker("prefill-worker", PrefillWorkerConfig, PrefillWorker)


if __name__ == "__main__":
    main()

"""`python -m lengthwise_autoscaler --config FILE`."""

from lengthwise_autoscaler.app import AutoscalerApplication
from lengthwise_autoscaler.config import AutoscalerConfig
from lengthwise_runtime.process import run_process


def main() -> None:
    run_process(
        "autoscaler",
        AutoscalerConfig,
        AutoscalerApplication,
        switches={"dry_run": "decide and report what would be done, and do nothing"},
    )


if __name__ == "__main__":
    main()

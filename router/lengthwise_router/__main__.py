"""`python -m lengthwise_router --config FILE`."""

from lengthwise_router.app import RouterApplication
from lengthwise_router.config import RouterConfig
from lengthwise_runtime.process import run_process


def main() -> None:
    run_process("router", RouterConfig, RouterApplication)


if __name__ == "__main__":
    main()

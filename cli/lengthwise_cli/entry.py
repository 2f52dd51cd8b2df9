"""The commands that an installation has, each by the extra that it needs.

All of the code is in every installation, its dependencies are not: a command whose extra is missing
is one line that names the extra, and exit code 1.
"""

import importlib
import os
import sys


def lengthwise() -> None:
    # Of connections that end gRPC's core tells lines of its own, on standard error.
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    _enter("lengthwise", extra="cli", module="lengthwise_cli.main")


def router() -> None:
    _enter("lengthwise-router", extra="router", module="lengthwise_router.__main__")


def prefill_worker() -> None:
    _enter("lengthwise-prefill-worker", extra="worker", module="lengthwise_prefill_worker.__main__")


def decode_worker() -> None:
    _enter("lengthwise-decode-worker", extra="worker", module="lengthwise_decode_worker.__main__")


def flexible_worker() -> None:
    _enter(
        "lengthwise-flexible-worker", extra="worker", module="lengthwise_flexible_worker.__main__"
    )


def autoscaler() -> None:
    _enter("lengthwise-autoscaler", extra="autoscaler", module="lengthwise_autoscaler.__main__")


def _enter(command: str, *, extra: str, module: str) -> None:
    """Runs `main` of `module`."""
    try:
        main = importlib.import_module(module).main
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("lengthwise"):
            raise
        missing = error.name.partition(".")[0]
        sys.exit(
            f"{command}: {missing} is not installed; install what this command needs with"
            f' pip install "lengthwise[{extra}]"'
        )
    main()

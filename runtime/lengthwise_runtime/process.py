"""The life of a process: arguments, configuration, logs, signals, drain, exit code."""

import argparse
import asyncio
import contextlib
import gc
import logging
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol, TypeVar, get_args

from lengthwise_runtime.config import ConfigError, load_config
from lengthwise_runtime.logs import LogFormat, configure_logging

logger = logging.getLogger(__name__)

C = TypeVar("C")


class Application(Protocol):
    """What a process runs."""

    async def start(self) -> None:
        """Returns when the process is ready. Errors: ConfigError for what an operator can mend."""

    async def failed(self) -> BaseException:
        """Returns when a background task that should never end has ended, with the reason."""

    async def drain(self) -> None:
        """Refuses new work, finishes what runs, frees everything; bounded by its own
        configuration."""


def run_process(
    name: str,
    config_class: type[C],
    build: Callable[[C], Application],
    expected: tuple[type[Exception], ...] = (),
    switches: Mapping[str, str] | None = None,
) -> None:
    """Entry point of a process: reads `--config FILE` and what `--set KEY=VALUE` says otherwise,
    serves until SIGTERM or SIGINT, drains, exits.

    `expected`: errors of start-up that are the operator's to mend; they are printed as one line.
    `switches`: keys that are true or false, and have an option each that makes them true, with its
    help.
    """
    parser = argparse.ArgumentParser(prog=f"lengthwise-{name}", description=f"Lengthwise {name}")
    parser.add_argument("--config", type=Path, required=True, help="YAML configuration file")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides",
        help="instead of what the file says; may be repeated, KEY may be dotted",
    )  # fmt: skip
    for key, meaning in (switches or {}).items():
        parser.add_argument(
            f"--{key.replace('_', '-')}", action="append_const", const=f"{key}=true",
            dest="overrides", help=meaning,
        )  # fmt: skip
    parser.add_argument("--log-level", default="INFO", help="DEBUG, INFO, WARNING or ERROR")
    parser.add_argument(
        "--log-format", default="text", choices=get_args(LogFormat),
        help="lines for readers, or a JSON object each",
    )  # fmt: skip
    arguments = parser.parse_args()
    configure_logging(name, arguments.log_level.upper(), arguments.log_format)
    operator_errors: tuple[type[Exception], ...] = (ConfigError, *expected)
    try:
        config = load_config(arguments.config, config_class, arguments.overrides)
        application = build(config)
        sys.exit(asyncio.run(_serve(application)))
    except operator_errors as error:
        for line in str(error).splitlines():
            logger.error("%s", line)
        sys.exit(2)


async def _serve(application: Application) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await application.start()
    # What start-up made lives as long as the process: the collector need not walk it again.
    gc.freeze()
    stopping = asyncio.create_task(stop.wait())
    failing = asyncio.create_task(application.failed())
    await asyncio.wait((stopping, failing), return_when=asyncio.FIRST_COMPLETED)
    if failing.done():
        logger.critical("a task that must not end has ended", exc_info=failing.result())
    else:
        logger.info("draining")
    await application.drain()
    for task in (stopping, failing):
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):  # cancelled just above
            await task
    return 0 if stop.is_set() else 1

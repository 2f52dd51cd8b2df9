"""The command line. What went wrong is one line on standard error and exit code 1, never a
traceback; Ctrl-C is quiet and 130."""

import os
import signal
import sys
from collections.abc import Callable

import typer

from lengthwise_cli import explain, requests, up
from lengthwise_local import LocalClusterError
from lengthwise_wire.errors import LengthwiseError

app = typer.Typer(
    help="Length-aware, disaggregated LLM serving.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command()(requests.generate)
app.command()(requests.chat)
app.command()(requests.tokenize)
app.command()(requests.model)
app.command()(explain.explain)
app.command()(up.up)


def main() -> None:
    # Not a KeyboardInterrupt: raised while gRPC runs a callback, it is lost. All that was printed
    # is flushed, and routers notice the closed connection. `up` drains, with handlers of its own.
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))
    reported(lambda: app(prog_name="lengthwise"))


def reported(command: Callable[[], object]) -> None:
    """Runs a command; an error becomes one line on standard error."""
    try:
        command()
    except (LengthwiseError, LocalClusterError) as error:
        print(f"lengthwise: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()

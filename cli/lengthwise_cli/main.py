"""The command line. What went wrong is one line on standard error and exit code 1, never a
traceback; a wrong command line is 2; Ctrl-C is quiet and 130; a closed pipe is quiet too."""

import os
import signal
import sys
from collections.abc import Callable
from typing import Annotated

import typer

import lengthwise
from lengthwise_cli import chat, explain, keys, requests, up
from lengthwise_cli.bench import command as bench
from lengthwise_cli.errors import CommandError
from lengthwise_cli.evaluate import command as evaluate
from lengthwise_cli.simulate import command as simulate
from lengthwise_cli.status import command as status
from lengthwise_cli.terminal import prepare_streams, say
from lengthwise_local import LocalClusterError
from lengthwise_wire.errors import LengthwiseError

app = typer.Typer(
    help="Length-aware, disaggregated LLM serving.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    # Boxes do not fit narrow terminals, nor ASCII.
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.command()(up.up)
app.command()(requests.generate)
app.command()(chat.chat)
app.command()(status.status)
app.command()(explain.explain)
app.command()(bench.bench)
app.command()(evaluate.evaluate)
for each in simulate.COMMANDS:
    app.command()(each)
app.command()(requests.tokenize)
app.command()(requests.model)
app.command()(requests.models)
app.add_typer(keys.app, name="keys")


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"lengthwise {lengthwise.__version__}")
        raise typer.Exit


@app.callback()
def _options_of_all(
    _: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Say which it is."),
    ] = False,
) -> None:
    """Length-aware, disaggregated LLM serving."""


def main() -> None:
    prepare_streams()
    # Not a KeyboardInterrupt: raised while gRPC runs a callback, it is lost. All that was printed
    # is flushed, and routers notice the closed connection. `up` drains, with handlers of its own.
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))
    # `lengthwise model | head -1` ends quietly, as every Unix command.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    reported(lambda: app(prog_name="lengthwise"))


def reported(command: Callable[[], object]) -> None:
    """Runs a command; an error becomes one line on standard error."""
    try:
        command()
    except (LengthwiseError, LocalClusterError, CommandError) as error:
        say(f"lengthwise: {error}")
        sys.exit(1)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        say(f"lengthwise: {where}{error.strerror or error}")
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()

"""`lengthwise up`: a whole deployment on this machine, until Ctrl-C.

A signal drains everything, a second one cuts that short; no process stays behind (`Interrupts`).
"""

import json
import os
import shlex
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, nullcontext
from typing import Annotated

from rich.console import Console
from rich.live import Live
from rich.status import Status
from typer import Argument, Option

from lengthwise._grpc.channel import DEFAULT_ENDPOINT
from lengthwise._session import join
from lengthwise.client import Client
from lengthwise.types import Model
from lengthwise_cli.interrupts import Interrupts
from lengthwise_cli.options import Adapters, is_loopback, parse_bytes
from lengthwise_cli.requests import statistics
from lengthwise_cli.table import ClusterTable, StartView
from lengthwise_cli.terminal import fit_encoding, knows_unicode, own_name
from lengthwise_local import Died, LocalCluster, Supervisor, named_models

HTTP_PORT = 8000
LOOK_SECONDS = 0.2
DRAW_SECONDS = 1.0
FIRST_PROMPT = "def read_lines(path):"
"""The demo model has read the Python standard library."""
BASE_PROMPT = "Once upon a time"
FIRST_TOKENS = 64
MODEL_SECONDS = 10.0
_KEYS = ("dtype", "model_backend", "quantization", "kv_dtype", "max_context", "kv_memory_bytes")
PIPE_CLOSED = 128 + signal.SIGPIPE
"""Exit code of a shell's command that SIGPIPE ended."""

_MODEL_HELP = (
    "Checkpoint folder, .gguf file or hub id, or NAME=ONE; repeat to serve several; not given: the"
    " demo model."
)


def up(
    models: Annotated[list[str] | None, Argument(metavar="MODEL", help="As --model.")] = None,
    model: Annotated[list[str] | None, Option(metavar="MODEL", help=_MODEL_HELP)] = None,
    adapter: Adapters = None,
    prefill: Annotated[int, Option(help="Prefill workers of each model; 0: none.")] = 1,
    decode: Annotated[int, Option(help="Decode workers of each model.")] = 2,
    routers: Annotated[int, Option(help="Routers.")] = 1,
    device: Annotated[str, Option(help="auto, cpu or cuda.")] = "auto",
    dtype: Annotated[
        str | None, Option(help="auto, float32, bfloat16 or float16: what is computed in.")
    ] = None,
    model_backend: Annotated[
        str | None, Option(help="auto, native or transformers: whose code computes the model.")
    ] = None,
    quantization: Annotated[str | None, Option(help="none, int8, int4, fp8: of weights.")] = None,
    kv_dtype: Annotated[str | None, Option(help="auto, int8: of keys and values.")] = None,
    kv_memory: Annotated[str | None, Option(help="Of each KV cache: bytes, or 512Mi, 4G.")] = None,
    max_context: Annotated[
        int | None, Option(help="The most tokens of a request, prompt and output.", min=1)
    ] = None,
    host: Annotated[str, Option(help="Where routers listen; 0.0.0.0: everywhere.")] = "127.0.0.1",
    port: Annotated[int, Option(help="Of the first router; others count up. 0: any.")] = 50051,
    http_port: Annotated[int, Option(help="The same for OpenAI's API; -1: none.")] = HTTP_PORT,
    metrics_port: Annotated[int, Option(help="The same for Prometheus metrics.")] = 0,
    settings: Annotated[
        list[str] | None,
        Option("--set", metavar="KEY=VALUE", help="Where processes have KEY; or ROLE.KEY=VALUE."),
    ] = None,
    say: Annotated[
        str | None, Option(help="Stream a first completion of this text when all is ready.")
    ] = None,
    once: Annotated[bool, Option("--once", help="Stop after a completion; for scripts.")] = False,
    start_timeout: Annotated[
        float, Option(help="Seconds in which all must be ready; loading large models takes long.")
    ] = 120.0,
) -> None:
    """Run routers, prefill workers and decode workers on this machine."""
    asked = [*(models or ()), *(model or ())]
    cluster = LocalCluster(
        models=named_models(asked),
        adapters=adapter or (),
        prefill=prefill,
        decode=decode,
        routers=routers,
        device=device,
        host=host,
        port=port,
        metrics_port=metrics_port,
        http_port=_http_port(http_port, port),
        settings=_settings(
            *(kv_memory, settings, dtype, model_backend, quantization, kv_dtype, max_context)
        ),
        start_seconds=start_timeout,
    )
    run(cluster, say=say, once=once, is_demo=not asked)


def _http_port(given: int, port: int) -> int | None:
    """Where any port is taken for gRPC, any is for HTTP too."""
    if given < 0:
        return None
    return given if port or given != HTTP_PORT else 0


def _settings(kv_memory: str | None, more: list[str] | None, *given: object) -> list[str]:
    kv_bytes = None if kv_memory is None else parse_bytes(kv_memory)
    pairs = zip(_KEYS, (*given, kv_bytes), strict=True)
    return [*(f"{key}={value}" for key, value in pairs if value is not None), *(more or ())]


def run(
    cluster: LocalCluster, *, say: str | None = None, once: bool = False, is_demo: bool = True
) -> None:
    """Starts a cluster, watches over it until a signal comes, and drains it.

    Errors: LocalClusterError when it cannot start or a process keeps dying; nothing runs any more
    then.
    """
    # A closed pipe is an error of a print then, and no end without draining.
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    interrupts = Interrupts()
    session = _Up(cluster, Console(highlight=False, soft_wrap=True), interrupts, is_demo)
    try:
        session.start()
        if say is not None or once:
            session.say(say or FIRST_PROMPT)
        if not once:
            session.watch()
    except KeyboardInterrupt:
        interrupts.answered()
        print()
        if once:
            raise
    except (BrokenPipeError, SystemExit):  # rich makes the second of the first
        session.silence()
        sys.exit(PIPE_CLOSED)
    except BaseException:
        session.failed = True
        raise
    finally:
        session.stop()


class _Up:
    """One run of the command."""

    def __init__(
        self, cluster: LocalCluster, console: Console, interrupts: Interrupts, is_demo: bool
    ) -> None:
        self.failed = False
        self._is_demo = is_demo
        self._cluster = cluster
        self._console = console
        self._interrupts = interrupts

    def start(self) -> None:
        started_at = time.monotonic()
        with self._interrupts.held():
            self._cluster.launch()
        terminal = self._console.is_terminal
        with self._status("starting") if terminal else nullcontext() as status:
            self._cluster.wait_ready(StartView(self._console, status).show)
        if not terminal:
            for process in self._cluster.processes:
                self._console.print(
                    f"{process.name} is ready on {process.address},"
                    f" metrics on {process.metrics_address}"
                )
        self._console.print(self._how_to_call(time.monotonic() - started_at), markup=False)

    def say(self, prompt: str) -> None:
        """A first completion by every model."""
        with Client(self._cluster.endpoints) as client:
            for model in client.models(timeout=MODEL_SECONDS):
                self._console.print(prompt, style="bold", markup=False, emoji=False, end="")
                chunks = []
                for chunk in client.stream(prompt, max_tokens=FIRST_TOKENS, model=model.name):
                    chunks.append(chunk)
                    print(chunk.text, end="", flush=True)
                print()
                told = fit_encoding(statistics(join(chunks)), self._console.file)
                self._console.print(told, style="dim", end="\n\n", soft_wrap=False)

    def watch(self) -> None:
        """Supervises until interrupted. Errors: LocalClusterError when a process keeps dying."""
        supervisor = Supervisor(self._cluster.processes, start_seconds=self._cluster.start_seconds)
        with closing(ClusterTable(self._cluster)) as table, self._live() as live:
            draw_at = 0.0
            while True:
                with self._interrupts.held():
                    events = supervisor.look()
                for event in events:
                    if isinstance(event, Died):
                        self.failed = True
                        self._console.print(
                            f"{event.how_it_ended}\nrestarting {event.process.name}"
                            f" in {event.restart_in_seconds:g} s",
                            markup=False,
                        )
                    else:
                        self._console.print(
                            f"{event.process.name} is ready again on {event.process.address}"
                        )
                if live is not None and time.monotonic() >= draw_at:
                    live.update(table.draw(self._console), refresh=True)
                    draw_at = time.monotonic() + DRAW_SECONDS
                time.sleep(LOOK_SECONDS)

    def stop(self) -> None:
        """Drains; a second interrupt kills. Says where the logs are when something failed."""
        try:
            with self._status("draining") if self._console.is_terminal else nullcontext():
                killed = self._cluster.stop(keep_folder=self.failed)
        except KeyboardInterrupt:
            self._interrupts.ignore()
            killed = self._cluster.stop(drain_seconds=0.0, keep_folder=self.failed)
        if killed:
            names = ", ".join(process.name for process in killed)
            self._console.print(f"killed, because it did not end by itself: {names}")
        if killed or self.failed:
            self._console.print(f"logs: {self._cluster.folder}")

    def _status(self, text: str) -> Status:
        spinner = "dots" if knows_unicode(self._console.file) else "line"
        return self._console.status(text, spinner=spinner)

    def _live(self) -> "Live | nullcontext[None]":
        if not self._console.is_terminal:
            return nullcontext()
        return Live(console=self._console, auto_refresh=False, transient=True)

    def silence(self) -> None:
        """Nobody reads any more."""
        self._console.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

    def _how_to_call(self, seconds: float) -> str:
        endpoints = self._cluster.endpoints
        options = "".join(f" --endpoint {endpoint}" for endpoint in endpoints)
        if endpoints == [DEFAULT_ENDPOINT.replace("localhost", "127.0.0.1")]:
            options = ""
        command = own_name()
        target = repr(endpoints[0] if len(endpoints) == 1 else endpoints)
        demo = f"generate {shlex.quote(FIRST_PROMPT)}", "generate('class A:', max_tokens=64)"
        address = self._cluster.routers[0].http_address
        models = []
        if address or not self._is_demo:
            with Client(endpoints) as client:
                models = client.models(timeout=MODEL_SECONDS)
        calls = [demo] if self._is_demo else list(_suggestions(models))
        lines = [
            f"\nready after {seconds:.1f} s on {', '.join(endpoints)}\n",
            *(f"  {command} {request}{options}" for request, _ in calls),
            f"  {command} status{options}",
            *(f"  Python: Client({target}).{call}.text" for _, call in calls),
            *(_over_http(address, models[0], self._is_demo) if address else []),
            "",
        ]
        if not is_loopback(self._cluster.host):
            lines.append(f"No TLS, no passwords: whoever reaches {self._cluster.host} may use it.")
        lines.append("Ctrl-C stops it.\n")
        return "\n".join(lines)


def _over_http(address: str, model: Model, is_demo: bool) -> tuple[str, str]:
    """How to call a model over HTTP, and where the page is."""
    body: dict[str, object] = {"model": model.name, "max_tokens": 64}
    chats = model.has_chat_template and not is_demo
    if chats:
        body["messages"] = [{"role": "user", "content": "Hello"}]
    else:
        body["prompt"] = FIRST_PROMPT if is_demo else BASE_PROMPT
    path = "chat/completions" if chats else "completions"
    curl = f"  curl http://{address}/v1/{path} -H 'content-type: application/json'"
    return f"{curl} -d {shlex.quote(json.dumps(body))}", f"  in a browser: http://{address}/"


def _suggestions(models: Sequence[Model]) -> Iterator[tuple[str, str]]:
    """How to talk to each model, for a shell and for Python."""
    for model in models:
        several = len(models) > 1
        option = f" --model {shlex.quote(model.name)}" if several else ""
        argument = f", model={model.name!r}" if several else ""
        if model.has_chat_template:
            yield f"chat{option}", f"chat([Message('user', 'Hello')]{argument})"
        else:
            yield (
                f"generate {shlex.quote(BASE_PROMPT)} --max-tokens 64{option}",
                f"generate({BASE_PROMPT!r}, max_tokens=64{argument})",
            )

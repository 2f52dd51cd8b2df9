"""`lengthwise up`: a whole deployment on this machine, until Ctrl-C.

SIGINT or SIGTERM drains everything, a second one cuts the draining short, and no process stays
behind: see `Interrupts` for what a signal may not cut in two.
"""

import shlex
import time
from collections.abc import Sequence
from contextlib import closing, nullcontext
from typing import Annotated

from rich.console import Console
from rich.live import Live
from typer import Option

from lengthwise._grpc.channel import DEFAULT_ENDPOINT
from lengthwise._session import join
from lengthwise.client import Client
from lengthwise_cli.interrupts import Interrupts
from lengthwise_cli.requests import statistics
from lengthwise_cli.table import ClusterTable
from lengthwise_local import Died, LocalCluster, Process, Supervisor

LOOK_SECONDS = 0.2
DRAW_SECONDS = 1.0
FIRST_PROMPT = "def read_lines(path):"
"""The demo model has read the Python standard library."""
FIRST_TOKENS = 64


def up(
    model: Annotated[
        str | None, Option(help="Checkpoint folder or hub id; not given: the demo model.")
    ] = None,
    prefill: Annotated[int, Option(help="Prefill workers.")] = 1,
    decode: Annotated[int, Option(help="Decode workers.")] = 2,
    routers: Annotated[int, Option(help="Routers.")] = 1,
    device: Annotated[str, Option(help="auto, cpu or cuda.")] = "auto",
    port: Annotated[int, Option(help="Of the first router; others count up. 0: any.")] = 50051,
    metrics_port: Annotated[int, Option(help="The same for Prometheus metrics.")] = 0,
    say: Annotated[
        str | None, Option(help="Stream a first completion of this text when all is ready.")
    ] = None,
    once: Annotated[
        bool, Option("--once", help="Stop after a first completion; for scripts.")
    ] = False,
    start_timeout: Annotated[
        float, Option(help="Seconds in which all must be ready; loading large models takes long.")
    ] = 120.0,
) -> None:
    """Run routers, prefill workers and decode workers on this machine."""
    cluster = LocalCluster(
        model=model,
        prefill=prefill,
        decode=decode,
        routers=routers,
        device=device,
        port=port,
        metrics_port=metrics_port,
        start_seconds=start_timeout,
    )
    run(cluster, say=say, once=once)


def run(cluster: LocalCluster, *, say: str | None = None, once: bool = False) -> None:
    """Starts a cluster, watches over it until a signal comes, and drains it.

    Errors: LocalClusterError when it cannot start or a process keeps dying; nothing runs any more
    then.
    """
    session = _Up(cluster, Console(highlight=False, soft_wrap=True), Interrupts())
    try:
        session.start()
        if say is not None or once:
            session.say(say or FIRST_PROMPT)
        if not once:
            session.watch()
    except KeyboardInterrupt:
        print()
        if once:
            raise
    except BaseException:
        session.failed = True
        raise
    finally:
        session.stop()


class _Up:
    """One run of the command."""

    def __init__(self, cluster: LocalCluster, console: Console, interrupts: Interrupts) -> None:
        self.failed = False
        self._cluster = cluster
        self._console = console
        self._interrupts = interrupts

    def start(self) -> None:
        started_at = time.monotonic()
        with self._interrupts.held():
            self._cluster.launch()
        terminal = self._console.is_terminal
        with self._console.status("starting") if terminal else nullcontext() as status:

            def on_wait(missing: Sequence[Process]) -> None:
                if status is not None:
                    names = ", ".join(process.name for process in missing)
                    status.update(f"waiting for {names} ({time.monotonic() - started_at:.0f} s)")

            self._cluster.wait_ready(on_wait)
        if not terminal:
            for process in self._cluster.processes:
                self._console.print(f"{process.name} is ready on {process.address}")
        self._console.print(self._how_to_call(time.monotonic() - started_at), markup=False)

    def say(self, prompt: str) -> None:
        self._console.print(prompt, style="bold", markup=False, emoji=False, end="")
        chunks = []
        with Client(self._cluster.endpoints) as client:
            for chunk in client.stream(prompt, max_tokens=FIRST_TOKENS):
                chunks.append(chunk)
                print(chunk.text, end="", flush=True)
        print()
        self._console.print(statistics(join(chunks)), style="dim", end="\n\n")

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
                    live.update(table.draw(), refresh=True)
                    draw_at = time.monotonic() + DRAW_SECONDS
                time.sleep(LOOK_SECONDS)

    def stop(self) -> None:
        """Drains; a second interrupt kills. Says where the logs are when something failed."""
        try:
            with self._console.status("draining") if self._console.is_terminal else nullcontext():
                killed = self._cluster.stop(keep_folder=self.failed)
        except KeyboardInterrupt:
            self._interrupts.ignore()
            killed = self._cluster.stop(drain_seconds=0.0, keep_folder=self.failed)
        if killed:
            names = ", ".join(process.name for process in killed)
            self._console.print(f"killed, because it did not end by itself: {names}")
        if killed or self.failed:
            self._console.print(f"logs: {self._cluster.folder}")

    def _live(self) -> "Live | nullcontext[None]":
        if not self._console.is_terminal:
            return nullcontext()
        return Live(console=self._console, auto_refresh=False, transient=True)

    def _how_to_call(self, seconds: float) -> str:
        endpoints = self._cluster.endpoints
        options = "".join(f" --endpoint {endpoint}" for endpoint in endpoints)
        if endpoints == [DEFAULT_ENDPOINT.replace("localhost", "127.0.0.1")]:
            options = ""
        target = repr(endpoints[0] if len(endpoints) == 1 else endpoints)
        metrics = ", ".join(
            f"{process.name} {process.metrics_address}" for process in self._cluster.processes
        )
        return (
            f"\nready after {seconds:.1f} s on {', '.join(endpoints)}\n\n"
            f"  lengthwise generate {shlex.quote(FIRST_PROMPT)}{options}\n\n"
            "  from lengthwise import Client\n"
            f"  print(Client({target}).generate({FIRST_PROMPT!r}, max_tokens=64).text)\n\n"
            f"metrics: {metrics}\nCtrl-C stops it.\n"
        )

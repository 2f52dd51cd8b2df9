"""What a local cluster shows on a terminal: how its start comes along, then what its workers are
doing, as one table."""

import time
from collections.abc import Sequence

import grpc
from rich.console import Console
from rich.markup import escape
from rich.status import Status
from rich.table import Table
from rich.text import Text

from lengthwise_cli.status.rates import Rates
from lengthwise_cli.status.view import MODEL, as_state
from lengthwise_cli.terminal import Column, fitted
from lengthwise_local import LocalCluster, Process
from lengthwise_wire.v1 import worker_pb2, worker_pb2_grpc

STATUS_SECONDS = 0.5
"""A worker that reports no status within this time is shown as silent."""

PROCESS = (
    Column("process", is_number=False),
    Column("address", is_number=False, rank=2),
    Column("metrics", is_number=False, rank=4),
    Column("state", is_number=False),
    Column("running", rank=1),
    Column("queued", rank=1),
    Column("blocks used", rank=3),
    Column("tokens/s"),
)


class ClusterTable:
    """Asks every worker when it is drawn. A worker reports to a new watcher at once, so the
    first message of `Worker.Watch` is all it takes, and nothing runs between two drawings."""

    def __init__(self, cluster: LocalCluster) -> None:
        self._cluster = cluster
        self._channels: dict[str, grpc.Channel] = {}
        self._rates = Rates()

    def close(self) -> None:
        for channel in self._channels.values():
            channel.close()

    def draw(self, console: Console) -> Table:
        statuses = self._statuses(self._cluster.workers)
        several = len({worker.model for worker in self._cluster.workers}) > 1
        rows: list[tuple[str | Text, ...]] = []
        for process in self._cluster.processes:
            note = process.announcement if process.running else None
            addresses = (note.address, note.metrics) if note else ("", "")
            cells = self._cells(process, statuses.get(process.name))
            named = (process.model,) if several else ()
            rows.append((process.name, *named, *addresses, *cells))
        columns = (PROCESS[0], MODEL, *PROCESS[1:]) if several else PROCESS
        return fitted(columns, rows, console)

    def _statuses(self, workers: Sequence[Process]) -> dict[str, worker_pb2.WorkerStatus]:
        calls = {}
        for worker in workers:
            if worker.running and worker.announcement is not None:
                stub = worker_pb2_grpc.WorkerStub(self._channel(worker.announcement.address))
                calls[worker.name] = stub.Watch(worker_pb2.WatchRequest(), timeout=STATUS_SECONDS)
        statuses = {}
        for name, call in calls.items():
            try:
                statuses[name] = next(call)
            except (grpc.RpcError, StopIteration):
                continue  # shown as silent
            finally:
                call.cancel()
        return statuses

    def _channel(self, address: str) -> grpc.Channel:
        if address not in self._channels:
            options = [("grpc.enable_http_proxy", 0)]
            self._channels[address] = grpc.insecure_channel(address, options)
        return self._channels[address]

    def _cells(
        self, process: Process, status: worker_pb2.WorkerStatus | None
    ) -> tuple[str | Text, ...]:
        nothing = ("", "", "", "")
        if not process.running:
            return (as_state("dead"), *nothing)
        if process.announcement is None:
            return (as_state("starting"), *nothing)
        if process.role == "router":
            return (as_state("ready"), *nothing)
        if status is None:
            return (as_state("silent"), *nothing)
        return (
            as_state("draining" if status.draining else "ready"),
            str(status.running_requests),
            str(sum(queue.requests for queue in status.queues)),
            f"{status.blocks_total - status.blocks_free:,}/{status.blocks_total:,}",
            f"{self._rate(status):,.0f}",
        )

    def _rate(self, status: worker_pb2.WorkerStatus) -> float:
        prefills = status.role == worker_pb2.ROLE_PREFILL
        total = status.prompt_tokens_total if prefills else status.output_tokens_total
        self._rates.count(status.worker_id, total, time.monotonic())
        return self._rates.per_second(status.worker_id)


class StartView:
    """What is not ready yet, and how far its downloads and loads have come."""

    def __init__(self, console: Console, status: Status | None) -> None:
        """Without a `status`, which a terminal has, each new word is a line of the console."""
        self._console = console
        self._status = status
        self._began_at = time.monotonic()
        self._told: set[str] = set()

    def show(self, missing: Sequence[Process]) -> None:
        progress = [f"{each.name} is {each.progress}" for each in missing if each.progress]
        if self._status is not None:
            names = ", ".join(process.name for process in missing)
            text = f"waiting for {names} ({time.monotonic() - self._began_at:.0f} s)"
            self._status.update(escape("\n".join([text, *progress])))
            return
        for line in progress:
            if line not in self._told:
                self._told.add(line)
                self._console.print(line, markup=False)

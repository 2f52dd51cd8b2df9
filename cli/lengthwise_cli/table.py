"""What the workers of a local cluster are doing, as one table."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import grpc
from rich.table import Table

from lengthwise_local import LocalCluster, Process
from lengthwise_wire.v1 import worker_pb2, worker_pb2_grpc

STATUS_SECONDS = 0.5
"""A worker that reports no status within this time is shown as silent."""


@dataclass(frozen=True, slots=True)
class _Rate:
    """Tokens counted, when, and how many a second since the time before."""

    total: int
    at: float
    per_second: float


class ClusterTable:
    """Asks every worker when it is drawn. A worker reports to a new watcher at once, so the
    first message of `Worker.Watch` is all it takes, and nothing runs between two drawings."""

    def __init__(self, cluster: LocalCluster) -> None:
        self._cluster = cluster
        self._channels: dict[str, grpc.Channel] = {}
        self._rates: dict[str, _Rate] = {}

    def close(self) -> None:
        for channel in self._channels.values():
            channel.close()

    def draw(self) -> Table:
        table = Table("process", "address", "state", box=None, pad_edge=False, padding=(0, 3, 0, 0))
        for name in ("running", "queued", "free blocks", "tokens/s"):
            table.add_column(name, justify="right")
        statuses = self._statuses(self._cluster.workers)
        for process in self._cluster.processes:
            note = process.announcement if process.running else None
            address = note.address if note else ""
            table.add_row(process.name, address, *self._cells(process, statuses.get(process.name)))
        return table

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
    ) -> tuple[str, str, str, str, str]:
        if not process.running:
            return ("[red]dead[/]", "", "", "", "")
        if process.announcement is None:
            return ("[yellow]starting[/]", "", "", "", "")
        if process.role == "router":
            return ("[green]ready[/]", "", "", "", "")
        if status is None:
            return ("[red]silent[/]", "", "", "", "")
        return (
            "[yellow]draining[/]" if status.draining else "[green]ready[/]",
            str(status.running_requests),
            str(sum(queue.requests for queue in status.queues)),
            f"{status.blocks_free:,} / {status.blocks_total:,}",
            f"{self._rate(status):,.0f}",
        )

    def _rate(self, status: worker_pb2.WorkerStatus) -> float:
        now = time.monotonic()
        prefills = status.role == worker_pb2.ROLE_PREFILL
        total = status.prompt_tokens_total if prefills else status.output_tokens_total
        last = self._rates.get(status.worker_id, _Rate(total, now - 1.0, 0.0))
        rate = _Rate(total, now, (total - last.total) / max(now - last.at, 1e-3))
        self._rates[status.worker_id] = rate
        return rate.per_second

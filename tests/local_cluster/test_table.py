"""The table of `lengthwise up` shows what each worker says, and that it says nothing."""

import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import closing
from typing import Any

import grpc
import pytest
from rich.console import Console

from lengthwise_cli.table import ClusterTable
from lengthwise_local import LocalCluster
from lengthwise_wire.v1 import worker_pb2, worker_pb2_grpc

MakeCluster = Callable[..., LocalCluster]


class Worker(worker_pb2_grpc.WorkerServicer):
    """Counts a thousand output tokens from each watcher to the next."""

    def __init__(self) -> None:
        self.silent = False
        self.draining = False
        self.address = ""
        self._total = 0

    def Watch(
        self, request: worker_pb2.WatchRequest, context: Any
    ) -> Iterator[worker_pb2.WorkerStatus]:
        ended = threading.Event()
        context.add_callback(ended.set)
        self._total += 1_000
        if not self.silent:
            yield worker_pb2.WorkerStatus(
                worker_id="w",
                role=worker_pb2.ROLE_DECODE,
                blocks_total=2048,
                blocks_free=2000,
                running_requests=3,
                queues=[
                    worker_pb2.QueueStatus(length_class="short", requests=2),
                    worker_pb2.QueueStatus(length_class="long", requests=5),
                ],
                output_tokens_total=self._total,
                draining=self.draining,
            )
        ended.wait(10)


@pytest.fixture
def worker() -> Iterator[Worker]:
    worker = Worker()
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=4))
    worker_pb2_grpc.add_WorkerServicer_to_server(worker, server)
    worker.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    yield worker
    server.stop(None).wait(10)


def drawn(table: ClusterTable) -> dict[str, list[str]]:
    """Cells by process."""
    console = Console(width=200, color_system=None)
    with console.capture() as capture:
        console.print(table.draw(console))
    rows = [line.split() for line in capture.get().splitlines()]
    return {row[0]: row[1:] for row in rows}


def test_every_process_has_its_row(make_cluster: MakeCluster, worker: Worker) -> None:
    with (
        make_cluster(configs={"decode": {"listen": worker.address}}) as cluster,
        closing(ClusterTable(cluster)) as table,
    ):
        cells = drawn(table)["decode-0"]
        assert cells == [worker.address, "127.0.0.1:9", "ready", "3", "7", "48/2,048", "0"]
        assert drawn(table)["router-0"] == [cluster.endpoint, "127.0.0.1:9", "ready"]
        # Nothing serves at the address that the stand-in announced.
        prefill = cluster.prefill[0]
        assert drawn(table)["prefill-0"] == [prefill.address, "127.0.0.1:9", "silent"]
        assert int(drawn(table)["decode-0"][-1].replace(",", "")) > 0


@pytest.mark.slow
def test_what_is_wrong_is_distinguished(make_cluster: MakeCluster, worker: Worker) -> None:
    with (
        make_cluster(configs={"decode": {"listen": worker.address}}) as cluster,
        closing(ClusterTable(cluster)) as table,
    ):
        worker.draining = True
        assert drawn(table)["decode-0"][2] == "draining"
        worker.silent = True
        assert drawn(table)["decode-0"][2] == "silent"
        cluster.decode[0].kill()
        cluster.decode[0].wait(5.0)
        assert drawn(table)["decode-0"] == ["dead"]

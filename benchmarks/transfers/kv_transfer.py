"""How fast KV blocks move between two workers, against bare gloo between two processes.

Run `python -m transfers.kv_transfer`; it prints a table and appends to
benchmarks/data/kv_transfer.csv. Budget: at least 80 % of bare gloo for pieces of 1 MiB and more.

Both sides of the comparison move the same number of bytes per piece through caches of the same
size, over loopback, turn by turn in one run. Bare gloo sends one contiguous message per piece, one
after the other, and neither packs, unpacks nor hashes. Transfer keeps pieces outstanding, as a
prefill that pushes layers does: over the network's path, and through shared memory, where the
receiver copies out of the sender's memory and both ends hash.

The rate is bound by the processors, so other work on the machine spoils it: every row has the load
average at the start. `chrt -f 1 python -m transfers.kv_transfer` keeps the processors for
itself.
"""

import argparse
import itertools
import os
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from rows import append_rows
from torch._C._distributed_c10d import FileStore

from lengthwise_engine.kv.cache import KVCache
from lengthwise_engine.kv.layout import KVLayout
from lengthwise_engine.kv.shards import KVShards
from lengthwise_engine.transfer.base import (
    LinkUp,
    Piece,
    ProcessLost,
    Received,
    TransferEvent,
)
from lengthwise_engine.transfer.config import TransferConfig
from lengthwise_engine.transfer.supervisor.supervisor import TransferProcess

# 8 KV heads of 128 in bfloat16: 64 KiB per block and layer, as in Llama 3 8B or Qwen3.
LAYOUT = KVLayout(num_layers=8, num_kv_heads=8, head_dim=128, block_size=16, dtype="bfloat16")
NUM_BLOCKS = 1024
CACHE_BYTES = LAYOUT.num_layers * NUM_BLOCKS * LAYOUT.block_bytes
OUTSTANDING = 64
ORDERS = ("contiguous", "scattered")
BARE = "bare gloo"
LIMIT_SECONDS = 60.0
CPU = torch.device("cpu")


class TransferPair:
    """Two transfer processes and a link between them."""

    def __init__(self, *, shared_memory: bool, device: torch.device = CPU) -> None:
        caches = [KVCache.allocate(LAYOUT, NUM_BLOCKS, device) for _ in range(2)]
        for cache in caches:
            cache.tensor.fill_(1)
        self._up = threading.Semaphore(0)
        self._received = threading.Semaphore(0)
        self._num_issued = 0
        self._sender, self._receiver = (
            TransferProcess(
                KVShards.of(cache),
                TransferConfig(
                    backend="nccl" if device.type == "cuda" else "gloo",
                    shared_memory=shared_memory,
                    connect_seconds=LIMIT_SECONDS,
                ),
                self._on_event,
            )
            for cache in caches
        )
        started_at = time.perf_counter()
        for name, process in (("sender", self._sender), ("receiver", self._receiver)):
            # NCCL refuses two ranks on one device unless each says it is a host of its own.
            os.environ["NCCL_HOSTID"] = name
            process.start()
        for process in (self._sender, self._receiver):
            process.wait_ready()
        self.start_seconds = time.perf_counter() - started_at
        self._receiver.accept("benchmark")
        self._sender.connect("benchmark", self._receiver.rendezvous)
        for _ in range(2):
            wait_for(self._up)

    def seconds(self, pieces: Sequence[Piece]) -> float:
        """How long it takes to have them all in the receiver's cache."""
        started_at = time.perf_counter()
        for number, piece in enumerate(pieces):
            if number >= OUTSTANDING:
                wait_for(self._received)
            num_bytes = piece.num_bytes(LAYOUT)
            self._receiver.receive("benchmark", self._num_issued, "key", piece, num_bytes)
            self._sender.send("benchmark", self._num_issued, piece)
            self._num_issued += 1
        for _ in range(min(OUTSTANDING, len(pieces))):
            wait_for(self._received)
        return time.perf_counter() - started_at

    def stop(self) -> None:
        self._sender.stop()
        self._receiver.stop()

    def _on_event(self, event: TransferEvent) -> None:
        if isinstance(event, Received):
            self._received.release()
        elif isinstance(event, LinkUp):
            self._up.release()
        elif isinstance(event, ProcessLost):
            print(event, file=sys.stderr)


def wait_for(signal: threading.Semaphore) -> None:
    if not signal.acquire(timeout=LIMIT_SECONDS):
        raise RuntimeError(f"nothing moved for {LIMIT_SECONDS:g} s")


def bare_rank(rank: int, store_path: str) -> None:
    """One end of bare gloo. Reads `BYTES COUNT` lines; rank 1, which receives, answers seconds."""
    torch.set_num_threads(1)
    gloo: Any = dist.ProcessGroupGloo
    options = gloo._Options()
    options._timeout = timedelta(seconds=LIMIT_SECONDS)
    options._devices = [gloo.create_device(hostname="127.0.0.1")]
    group = gloo(FileStore(store_path, 2), rank, 2, options)
    cache = KVCache.allocate(LAYOUT, NUM_BLOCKS, torch.device("cpu"))
    memory = cache.tensor.fill_(1).view(torch.uint8).flatten()
    token = torch.zeros(1, dtype=torch.uint8)
    for line in sys.stdin:
        num_bytes, count = map(int, line.split())
        # Both begin at the same time: the clock must not run while the other end reads its line.
        (group.send([token], 1, 0) if rank == 0 else group.recv([token], 0, 0)).wait()
        started_at = time.perf_counter()
        for number in range(count):
            start = number * num_bytes % CACHE_BYTES
            part = memory.narrow(0, start, num_bytes)
            (group.send([part], 1, 0) if rank == 0 else group.recv([part], 0, 0)).wait()
        print(time.perf_counter() - started_at, flush=True)


class BarePair:
    def __init__(self, folder: str) -> None:
        command = [sys.executable, __file__, "--bare", f"{folder}/store", "--rank"]
        self._ends = [
            subprocess.Popen(
                [*command, str(rank)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
            for rank in range(2)
        ]

    def seconds(self, num_bytes: int, count: int) -> float:
        for end in self._ends:
            assert end.stdin is not None
            end.stdin.write(f"{num_bytes} {count}\n")
            end.stdin.flush()
        answers = []
        for end in self._ends:
            assert end.stdout is not None
            answers.append(float(end.stdout.readline()))
        return answers[1]

    def stop(self) -> None:
        for end in self._ends:
            assert end.stdin is not None
            end.stdin.close()
            end.wait(10)


@contextmanager
def pairs() -> Iterator[tuple[BarePair, dict[str, TransferPair]]]:
    with tempfile.TemporaryDirectory() as folder:
        bare = BarePair(folder)
        links = {
            "transfer": TransferPair(shared_memory=False),
            "shared memory": TransferPair(shared_memory=True),
        }
        try:
            yield bare, links
        finally:
            bare.stop()
            for transfer in links.values():
                transfer.stop()


def make_pieces(num_bytes: int, count: int, order: str) -> list[Piece]:
    """Pieces of one layer each, walking through the whole cache."""
    per_piece = num_bytes // LAYOUT.block_bytes
    ids = list(range(NUM_BLOCKS))
    if order == "scattered":
        random.Random(0).shuffle(ids)
    slots = NUM_BLOCKS // per_piece
    return [
        Piece(
            first_layer=number // slots % LAYOUT.num_layers,
            num_layers=1,
            block_ids=tuple(ids[number % slots * per_piece :][:per_piece]),
        )
        for number in range(count)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mib", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--round-mib", type=int, default=256, help="bytes moved in each round")
    parser.add_argument("--dry-run", action="store_true", help="print only")
    parser.add_argument("--bare", help=argparse.SUPPRESS)
    parser.add_argument("--rank", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.bare:
        bare_rank(arguments.rank, arguments.bare)
        return
    rows: list[dict[str, object]] = []
    machine = {"scheduling": scheduling(), "load": round(os.getloadavg()[0], 1)}
    with pairs() as (bare, links):
        for name, transfer in links.items():
            print(f"{name}: two processes ready in {transfer.start_seconds:.2f} s")
        for mib in arguments.mib:
            num_bytes, count = mib * 2**20, max(1, arguments.round_mib // mib)
            rates: dict[str, list[float]] = defaultdict(list)
            for number in range(arguments.rounds + 1):
                taken = {BARE: bare.seconds(num_bytes, count)}
                for order, (name, transfer) in itertools.product(ORDERS, links.items()):
                    pieces = make_pieces(num_bytes, count, order)
                    taken[f"{name}, {order} block ids"] = transfer.seconds(pieces)
                if number:  # the first round warms up
                    for name, seconds in taken.items():
                        rates[name].append(num_bytes * count / seconds / 1e9)
            rows += [machine | row(num_bytes, count, name, rates) for name in rates]
            for each in rows[-len(rates) :]:
                print("  ".join(f"{key} {value}" for key, value in each.items()))
    if not arguments.dry_run:
        append_rows("kv_transfer", rows)


def scheduling() -> str:
    return "normal" if os.sched_getscheduler(0) == os.SCHED_OTHER else "real time"


def row(num_bytes: int, count: int, name: str, rates: dict[str, list[float]]) -> dict[str, object]:
    ratios = [mine / bare for mine, bare in zip(rates[name], rates[BARE], strict=True)]
    return {
        "torch": torch.__version__,
        "what": name,
        "piece_bytes": num_bytes,
        "pieces_per_round": count,
        "rounds": len(ratios),
        "median_gb_per_s": round(statistics.median(rates[name]), 2),
        "min_gb_per_s": round(min(rates[name]), 2),
        "max_gb_per_s": round(max(rates[name]), 2),
        "median_ratio_to_bare": round(statistics.median(ratios), 2),
        "min_ratio_to_bare": round(min(ratios), 2),
        "max_ratio_to_bare": round(max(ratios), 2),
    }


if __name__ == "__main__":
    main()

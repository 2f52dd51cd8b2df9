"""What the statuses of many workers cost a router before any request comes: its process' share of
a core, its memory, and how soon it gives up workers that have frozen or died.

Run `python -m fleet.statuses`; it appends to benchmarks/data/fleet_statuses.csv and
fleet_losses.csv. The router is a process of its own, as it is served; every worker has a gRPC
server and ends 25 steps a second. Budget with 1,000 busy workers: 0.2 core, 300 MiB; a frozen or
dead worker is noticed within 2 s, which is looked for by reading the router's metrics.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median

import psutil
from prometheus_client.parser import text_string_to_metric_families
from rows import append_rows

from fleet.publisher import PublishingWorkers
from lengthwise_engine.toy.checkpoint import write_toy_checkpoint
from lengthwise_policy.placement.outstanding import status_interval

COUNTS = (64, 256, 1000)
WAIT_SECONDS = 120.0
SETTLE_SECONDS = 5.0
VICTIMS = 4
"""Of each kind of loss, one after the other; each is alone in its process."""

LOSSES = {"frozen": signal.SIGSTOP, "killed": signal.SIGKILL}


@contextmanager
def router(model: Path, addresses: Sequence[str], folder: Path) -> Iterator[tuple[int, str]]:
    """Its process id and the address of its metrics."""
    notes = folder / "notes"
    notes.mkdir()
    config = folder / "router.yaml"
    config.write_text(
        json.dumps(
            {
                "model": str(model),
                "listen": "127.0.0.1:0",
                "metrics_listen": "127.0.0.1:0",
                "announce_folder": str(notes),
                "discovery": {"endpoints": list(addresses)},
            }
        )
    )
    command = (sys.executable, "-m", "lengthwise_router", "--config", str(config))
    process = subprocess.Popen((*command, "--log-level", "ERROR"))
    try:
        wait_until(lambda: any(notes.glob("*.json")))
        (note,) = notes.glob("*.json")
        yield process.pid, json.loads(note.read_text())["metrics"]
    finally:
        process.kill()
        process.wait()


def wait_until(condition: Callable[[], bool], pause: float = 0.25) -> None:
    """Errors: TimeoutError."""
    until = time.monotonic() + WAIT_SECONDS
    while not condition():
        if time.monotonic() > until:
            raise TimeoutError(f"the router is not where it should be after {WAIT_SECONDS} s")
        time.sleep(pause)


def num_ready(metrics: str) -> int:
    with urllib.request.urlopen(f"http://{metrics}/metrics", timeout=20) as answer:
        families = text_string_to_metric_families(answer.read().decode())
        samples = [each for family in families for each in family.samples]
    ready = [each for each in samples if each.labels.get("state") == "ready"]
    return int(sum(each.value for each in ready))


def measure(pid: int, parts: Sequence[PublishingWorkers], seconds: float) -> dict[str, object]:
    process = psutil.Process(pid)
    sent, used, began_at = _num_sent(parts), _cpu_seconds(process), time.perf_counter()
    time.sleep(seconds)
    lasted = time.perf_counter() - began_at
    sent, used = _num_sent(parts) - sent, _cpu_seconds(process) - used
    return {
        "statuses_per_second": round(sent / lasted),
        "router_cpu_share": round(used / lasted, 3),
        "cpu_us_per_status": round(used / sent * 1e6, 1),
        "router_rss_mib": round(process.memory_info().rss / 2**20),
    }


def losses(
    metrics: str, count: int, victims: Sequence[PublishingWorkers]
) -> Iterator[dict[str, object]]:
    """A row for each kind, from the moment at which a worker's process is stopped or killed to that
    at which the metrics have one ready worker less."""
    kinds = list(LOSSES)
    noticed: dict[str, list[float]] = {kind: [] for kind in kinds}
    for number, victim in enumerate(victims):
        time.sleep(random.random())  # somewhere between two statuses
        assert victim.process.pid is not None
        kind = kinds[number * len(kinds) // len(victims)]
        os.kill(victim.process.pid, LOSSES[kind])
        began_at = time.monotonic()
        wait_until(lambda: num_ready(metrics) < count - number, pause=0.02)  # noqa: B023
        noticed[kind].append(time.monotonic() - began_at)
    for kind, seconds in noticed.items():
        yield {
            "workers": count,
            "status_seconds": round(status_interval(count), 2),
            "loss": kind,
            "losses": len(seconds),
            "noticed_median_seconds": round(median(seconds), 2),
            "noticed_max_seconds": round(max(seconds), 2),
        }


def _num_sent(parts: Sequence[PublishingWorkers]) -> int:
    return sum(part.num_sent() for part in parts)


def _cpu_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, nargs="+", default=COUNTS)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--idle", action="store_true", help="workers that end no steps")
    parser.add_argument("--dry", action="store_true", help="print rows without recording them")
    arguments = parser.parse_args()
    rows, lost = [], []
    alone = VICTIMS * len(LOSSES)
    for count in arguments.workers:
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            model = write_toy_checkpoint(folder / "toy")
            parts = [
                stack.enter_context(PublishingWorkers(numbers, model.name, busy=not arguments.idle))
                for numbers in (*(range(n, n + 1) for n in range(alone)), range(alone, count))
            ]
            addresses = [address for part in parts for address in part.addresses]
            pid, metrics = stack.enter_context(router(model, addresses, folder))
            wait_until(lambda: num_ready(metrics) == count)  # noqa: B023
            time.sleep(SETTLE_SECONDS)
            row: dict[str, object] = {"workers": count, "busy": not arguments.idle}
            row |= measure(pid, parts, arguments.seconds)
            noticed = list(losses(metrics, count, parts[:-1]))
        row["frozen_noticed_seconds"] = noticed[0]["noticed_max_seconds"]
        rows.append(row)
        lost.extend(noticed)
        print(row, *noticed, sep="\n", flush=True)
    if not arguments.dry:
        append_rows("fleet_statuses", rows)
        append_rows("fleet_losses", lost)


if __name__ == "__main__":
    main()

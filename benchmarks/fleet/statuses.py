"""What the statuses of many workers cost a router before any request comes: its process' share of
a core, its memory, and how soon it gives up a worker that has frozen.

Run `python -m fleet.statuses`; it appends to benchmarks/data/fleet_statuses.csv. The router is a
process of its own, as it is served; every worker has a gRPC server and ends 25 steps a second.
Budget with 1,000 busy workers: 0.2 core, 300 MiB; a frozen worker is noticed within 2 s.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil
from prometheus_client.parser import text_string_to_metric_families
from rows import append_rows

from fleet.publisher import PublishingWorkers
from lengthwise_engine.toy.checkpoint import write_toy_checkpoint

COUNTS = (64, 256, 1000)
WAIT_SECONDS = 120.0
SETTLE_SECONDS = 5.0


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


def noticed_seconds(metrics: str, count: int, victim: PublishingWorkers) -> float:
    """From the moment at which a worker's process is stopped to that at which it is not ready."""
    assert victim.process.pid is not None
    os.kill(victim.process.pid, signal.SIGSTOP)
    began_at = time.monotonic()
    wait_until(lambda: num_ready(metrics) < count, pause=0.02)
    return time.monotonic() - began_at


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
    rows = []
    for count in arguments.workers:
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            model = write_toy_checkpoint(folder / "toy")
            parts = [
                stack.enter_context(PublishingWorkers(numbers, model.name, busy=not arguments.idle))
                for numbers in (range(1), range(1, count))
            ]
            addresses = [address for part in parts for address in part.addresses]
            pid, metrics = stack.enter_context(router(model, addresses, folder))
            wait_until(lambda: num_ready(metrics) == count)  # noqa: B023
            time.sleep(SETTLE_SECONDS)
            row: dict[str, object] = {"workers": count, "busy": not arguments.idle}
            row |= measure(pid, parts, arguments.seconds)
            row["frozen_noticed_seconds"] = round(noticed_seconds(metrics, count, parts[0]), 2)
        rows.append(row)
        print(row, flush=True)
    if not arguments.dry:
        append_rows("fleet_statuses", rows)


if __name__ == "__main__":
    main()

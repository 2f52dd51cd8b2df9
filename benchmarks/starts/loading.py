"""What a start costs: seconds until workers of a checkpoint of 1 GB in bfloat16 are ready, and the
most memory that one takes, computed in float32 and as it is stored, on the CPU.

Two workers of one machine start beside each other and answer one request. Budget of a worker's peak
(VmHWM): 1.15 times its weights, in the type that they are computed in, and its KV cache. The
system has just written the files and holds them: the disk is not measured.
"""

import os
import re
import tempfile
import time
from pathlib import Path
from typing import Final

from random_llama import random_llama
from rows import append_rows

import lengthwise
from lengthwise_engine.models.decoder_loader import read_spec
from lengthwise_engine.models.shard import ModelShard
from lengthwise_engine.models.weights_digest import FRESH_SECONDS
from lengthwise_engine.runner.memory_plan import weight_bytes
from lengthwise_local import LocalCluster, Process

CACHE_BYTES: Final = 512 << 20
BUDGET: Final = 1.15


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        os.environ["LENGTHWISE_CACHE"] = str(Path(temporary) / "cache")
        folder = random_llama(Path(temporary) / "model", hidden=2048, layers=11, dtype="bfloat16")
        stored = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
        time.sleep(FRESH_SECONDS)  # the digest of older files is kept
        append_rows(
            "loading",
            [
                _measure(folder, dtype, start, stored)
                for dtype in ("float32", "bfloat16")
                for start in ("first", "later")
            ],
        )


def _measure(folder: Path, dtype: str, start: str, stored: int) -> dict[str, object]:
    """The first start hashes the weights, later ones find the digest."""
    if start == "first":
        for kept in Path(os.environ["LENGTHWISE_CACHE"]).glob("weights/*"):
            kept.unlink()
    settings = [f"dtype={dtype}", f"kv_memory_bytes={CACHE_BYTES}"]
    cluster = LocalCluster(model=folder, settings=settings)
    started_at = time.monotonic()
    with cluster, lengthwise.Client(cluster.endpoint) as client:
        seconds = time.monotonic() - started_at
        client.generate("x" * 500, max_tokens=32)
        logs = (worker.log_path.read_text() for worker in cluster.workers)
        loading = max(float(re.findall(r" loaded .* in ([\d.]+) s", log)[0]) for log in logs)
        peak = max(read_kib(worker, "status", "VmHWM") for worker in cluster.workers)
        shared, private = (
            min(read_kib(worker, "smaps_rollup", *names) for worker in cluster.workers)
            for names in (
                ("Shared_Clean", "Shared_Dirty"),
                ("Private_Clean", "Private_Dirty"),
            )
        )
    weights = weight_bytes(ModelShard(whole=read_spec(folder)), "cpu", dtype)
    budget = BUDGET * (weights + CACHE_BYTES)
    print(
        f"{stored / 1e9:.2f} GB in {dtype}, {start} start: ready in {seconds:.1f} s, loaded in"
        f" {loading:.1f}, peak {peak / 1e9:.2f} GB (budget {budget / 1e9:.2f}),"
        f" shared {shared / 1e9:.2f} GB"
    )
    return {
        "gigabytes": f"{stored / 1e9:.2f}",
        "dtype": dtype,
        "start": start,
        "workers": len(cluster.workers),
        "cache_bytes": CACHE_BYTES,
        "seconds_to_ready": f"{seconds:.2f}",
        "seconds_of_loading": loading,
        "weight_bytes": weights,
        "peak_bytes": peak,
        "budget_bytes": int(budget),
        "shared_bytes": shared,
        "private_bytes": private,
    }


def read_kib(process: Process, file: str, *names: str) -> int:
    """The sum of these lines of /proc/PID/`file`, in bytes."""
    lines = Path(f"/proc/{process.pid}/{file}").read_text().splitlines()
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith(names))


if __name__ == "__main__":
    main()

"""What the fingerprint costs a start: weights of 1 GB loaded without it, hashed for the first time,
and found in the cache. Budget: 1.5 s more on first load."""

import os
import tempfile
import time
from pathlib import Path

import torch
from random_llama import random_llama
from rows import append_rows

from lengthwise_engine.models import weights_digest
from lengthwise_engine.models.decoder_loader import read_spec
from lengthwise_engine.models.shard import ModelShard
from lengthwise_engine.models.weight_files import WeightFiles
from lengthwise_engine.models.weights import load_weights

REPEATS = 3


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        os.environ["LENGTHWISE_CACHE"] = temporary
        folder = random_llama(Path(temporary) / "model", hidden=1536, layers=11)
        size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
        time.sleep(weights_digest.FRESH_SECONDS)  # older files are kept
        rounds = [{name: _load(folder, name) for name in HOW} for _ in range(REPEATS)]
    best = {name: min(seconds[name] for seconds in rounds) for name in HOW}
    more = best["hashed"] - best["plain"]
    print(f"{size / 1e9:.2f} GB: {more:.2f} s more on first load (budget 1.5 s)")
    row: dict[str, object] = {"gigabytes": f"{size / 1e9:.2f}", "repeats": REPEATS}
    row |= {f"min_seconds_{name}": f"{seconds:.2f}" for name, seconds in best.items()}
    append_rows("fingerprint", [{**row, "more_seconds": f"{more:.2f}", "budget_seconds": "1.5"}])


HOW = ("plain", "hashed", "cached")


def _load(folder: Path, how: str) -> float:
    if how != "cached":
        for kept in (weights_digest.cache_folder() / "weights").glob("*"):
            kept.unlink()
    began_at = time.monotonic()
    load_weights(
        WeightFiles(folder, hashed=how != "plain"),
        ModelShard(whole=read_spec(folder)),
        device=torch.device("cpu"),
        dtype=torch.bfloat16,
    )
    return time.monotonic() - began_at


if __name__ == "__main__":
    main()

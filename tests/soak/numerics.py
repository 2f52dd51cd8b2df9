"""Computes many requests alone and in crowds: `python -m soak.numerics --requests 10000 --seed 1`.

Exit code 1 when an answer, tokens or log-probabilities, differs in a bit.
"""

import argparse
import csv
import sys
import tempfile
import time
from pathlib import Path

import torch
from engine.random_schedule import NUM_BLOCKS, CachedRunner, alone, in_crowds, random_requests
from harness.checkpoints import write_checkpoint

from lengthwise_engine.loaded_model import load_runner

FAMILIES = ("llama", "llama-biases", "mistral-window", "qwen2-some-windows", "qwen3")
SHAPE = {"hidden_size": 256, "intermediate_size": 1280}
"""Sums of over 1,024 products: single rows add those in another order (docs/numerics.md)."""

ROUND = 100
"""Requests of one family before the next one's turn."""


def main() -> None:
    arguments = _parse()
    counts = {"answers": 0, "tokens": 0}
    began_at = time.process_time()
    with tempfile.TemporaryDirectory() as parent:
        folders = [write_checkpoint(Path(parent) / name, name, **SHAPE) for name in FAMILIES]
        for done in range(0, arguments.requests, ROUND):
            turn, count = done // ROUND, min(ROUND, arguments.requests - done)
            folder = folders[turn % len(folders)]
            for kind, number in differing(folder, arguments, turn, count).items():
                counts[kind] += number
            print(f"{done + count} requests, {counts['answers']} differ", flush=True)
    if arguments.csv:
        _write_csv(arguments, counts, time.process_time() - began_at)
    if counts["answers"]:
        sys.exit(f"failed; again: python -m soak.numerics {' '.join(sys.argv[1:])}")


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--quantization", default="none")
    parser.add_argument("--numerics", default="invariant")
    parser.add_argument("--csv", type=Path, help="for the row of a table")
    return parser.parse_args()


def differing(folder: Path, arguments: argparse.Namespace, turn: int, count: int) -> dict[str, int]:
    """How many of so many requests have another answer in crowds than alone, or other tokens."""
    seed = arguments.seed + turn
    workers = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        model = load_runner(
            folder,
            device="cpu",
            num_blocks=NUM_BLOCKS,
            dtype=getattr(torch, arguments.dtype),
            quantization=arguments.quantization,
            numerics=arguments.numerics,
        )
        workers.append(CachedRunner(model.runner, model.cache))
    torch.set_num_threads(1 + turn % 2)
    requests = random_requests(count, model.spec.vocab_size, seed)
    crowded = in_crowds(workers, requests, seed)
    torch.set_num_threads(1)
    pairs = list(zip(crowded, (alone(workers[0], request) for request in requests), strict=True))
    tokens = [[[token.token_id for token in answer] for answer in pair] for pair in pairs]
    return {
        "answers": sum(one != other for one, other in pairs),
        "tokens": sum(one != other for one, other in tokens),
    }


def _write_csv(arguments: argparse.Namespace, counts: dict[str, int], seconds: float) -> None:
    row = {
        "numerics": arguments.numerics,
        "dtype": arguments.dtype,
        "quantization": arguments.quantization,
        "seed": arguments.seed,
        "families": len(FAMILIES),
        "requests": arguments.requests,
        "answers_differ": counts["answers"],
        "tokens_differ": counts["tokens"],
        "cpu_seconds": round(seconds),
    }
    with arguments.csv.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(row), lineterminator="\n")
        writer.writeheader()
        writer.writerow(row)


if __name__ == "__main__":
    main()

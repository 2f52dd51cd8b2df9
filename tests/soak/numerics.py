"""Computes many requests alone and in crowds: `python -m soak.numerics --requests 10000 --seed 1`.

Exit code 1 when an answer, tokens or log-probabilities, differs in a bit.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import torch
from engine.random_schedule import NUM_BLOCKS, CachedRunner, alone, in_crowds, random_requests
from harness.checkpoints import write_checkpoint

from lengthwise_engine.loaded_model import load_runner

FAMILIES = ("llama", "llama-biases", "mistral-window", "qwen2-some-windows", "qwen3")
ROUND = 100
"""Requests of one family before the next one's turn."""


def differing(folder: Path, dtype: str, seed: int, count: int) -> int:
    """How many of so many requests have another answer in crowds than alone."""
    workers = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        model = load_runner(
            folder,
            device="cpu",
            num_blocks=NUM_BLOCKS,
            dtype=getattr(torch, dtype),
            numerics="invariant",
        )
        workers.append(CachedRunner(model.runner, model.cache))
    torch.set_num_threads(1)
    requests = random_requests(count, model.spec.vocab_size, seed)
    crowded = in_crowds(workers, requests, seed)
    expected = [alone(workers[0], request) for request in requests]
    return sum(one != other for one, other in zip(crowded, expected, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--dtype", default="bfloat16")
    arguments = parser.parse_args()
    wrong = done = 0
    with tempfile.TemporaryDirectory() as parent:
        folders = [write_checkpoint(Path(parent) / family, family) for family in FAMILIES]
        while done < arguments.requests:
            count = min(ROUND, arguments.requests - done)
            turn = done // ROUND
            wrong += differing(
                folders[turn % len(folders)], arguments.dtype, arguments.seed + turn, count
            )
            done += count
            print(f"{done} requests, {wrong} differ from those alone", flush=True)
    if wrong:
        sys.exit(f"failed; again: python -m soak.numerics {' '.join(sys.argv[1:])}")


if __name__ == "__main__":
    main()

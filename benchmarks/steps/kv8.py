"""Keys and values of 8 bits beside those of the model's type: what a decode step takes, and what a
token takes of memory and of the wire; appended to benchmarks/data/kv8.csv.

A Qwen2 of 0.36 B with heads of 64 on one thread. Times are of the processor, in turns in one
process; ratios are medians of turns. What lies in the cache is nothing to a step's time. Aims: a
tenth less at 32 rows of 2,048 tokens; 0.53 of the bytes of 16 bits.
"""

import argparse
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import torch
from cpu_engine.ours import BLOCK_SIZE
from goodput.model import large_model
from rows import append_rows

from lengthwise_engine.loaded_model import LoadedModel, load_runner
from lengthwise_engine.runner.base import SequenceChunk
from lengthwise_engine.runner.sampler import SamplingParameters, SamplingState
from lengthwise_kernels.host_memory import keep_freed_memory
from lengthwise_kernels.packed import multiplies_bfloat16

DTYPES: Final = ("float32", "bfloat16")
"""The second where the CPU has instructions for it."""
CASES: Final = ((1, 2048, 1), (8, 2048, 1), (32, 2048, 1), (1, 2048, 256))
"""Rows, tokens that they have, and tokens that a step adds to each."""
AIMS: Final = {(32, 2048, 1): 0.9}
STEPS: Final = 2


def load(model: Path, dtype: str, kv_dtype: str) -> LoadedModel:
    options: dict[str, Any] = {"kv_dtype": kv_dtype, "dtype": getattr(torch, dtype)}
    blocks = max(rows * (tokens + added + STEPS) for rows, tokens, added in CASES) // BLOCK_SIZE
    return load_runner(
        model,
        device="cpu",
        numerics="auto",
        num_blocks=blocks + 64,
        **options,
    )


def seconds(model: LoadedModel, rows: int, tokens: int, added: int) -> float:
    """Of a step."""
    each = -(-(tokens + added + STEPS) // BLOCK_SIZE)
    spent = 0.0
    for number in range(STEPS):
        start = tokens + number
        ids = [7] * (start + added)
        state = SamplingState(
            sampling=SamplingParameters(temperature=0.0), token_ids=ids, num_prompt_tokens=start
        )
        chunks = [
            SequenceChunk(
                token_ids=ids[start:],
                start=start,
                block_ids=range(row * each, (row + 1) * each),
                sampling=state,
            )
            for row in range(rows)
        ]
        began_at = time.process_time()
        model.runner.run(chunks)
        spent += time.process_time() - began_at
    return spent / STEPS


def measured(folder: Path, dtype: str, repeats: int) -> Iterator[dict[str, object]]:
    models = [load(folder, dtype, each) for each in ("auto", "int8")]
    full, halved = (model.shards.layout for model in models)
    for rows, tokens, added in CASES:
        turns = [
            [seconds(model, rows, tokens, added) for model in models] for _ in range(repeats + 1)
        ][1:]
        yield {
            "dtype": dtype,
            "rows": rows,
            "context": tokens,
            "added": added,
            "repeats": repeats,
            "milliseconds": f"{statistics.median(turn[1] for turn in turns) * 1e3:.1f}",
            "full_milliseconds": f"{statistics.median(turn[0] for turn in turns) * 1e3:.1f}",
            "ratio": f"{statistics.median(turn[1] / turn[0] for turn in turns):.3f}",
            "aim": AIMS.get((rows, tokens, added), ""),
            "bytes_per_token": halved.num_layers * halved.block_bytes // BLOCK_SIZE,
            "full_bytes_per_token": full.num_layers * full.block_bytes // BLOCK_SIZE,
        }


def main() -> None:
    parser = argparse.ArgumentParser(prog="kv8", description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, help="of the shape, where it lies, or is made")
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    keep_freed_memory()
    torch.set_num_threads(1)
    found: list[dict[str, object]] = []
    with large_model(arguments.model) as model:
        for dtype in DTYPES[: 1 + multiplies_bfloat16()]:
            for row in measured(model, dtype, arguments.repeats):
                print(row, flush=True)
                found.append(row)
    append_rows("kv8", found)


if __name__ == "__main__":
    main()

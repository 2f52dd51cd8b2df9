"""What a step takes when 1, 2 or 4 ranks compute it, on CPU with one thread each over gloo. No
budget: it shows what two sums per layer cost beside what sharing the arithmetic saves, on as many
cores as the row says, and nothing about GPUs.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import torch
from random_llama import random_llama
from rows import append_rows

from lengthwise_engine.loaded_model import LoadedModel, load_runner
from lengthwise_engine.runner.base import SequenceChunk
from lengthwise_engine.runner.sampler import SamplingParameters, SamplingState

NUM_LAYERS = 8
MODEL = "random Llama 512x8"
CONTEXT = 512
VOCAB_SIZE = 320
BLOCKS_EACH = CONTEXT // 16 + 1
SIZES = (1, 2, 4)
STEPS: dict[str, tuple[int, int]] = {
    # rows, new tokens of each
    "prefill 512 tokens": (1, CONTEXT),
    "decode 1 row": (1, 1),
    "decode 16 rows": (16, 1),
}


def chunks_of(rows: int, new_tokens: int) -> list[SequenceChunk]:
    token_ids = [(7 * i + i * i) % VOCAB_SIZE for i in range(CONTEXT)]
    state = SamplingState(
        sampling=SamplingParameters(temperature=0.0), token_ids=token_ids, num_prompt_tokens=CONTEXT
    )
    return [
        SequenceChunk(
            token_ids=token_ids[-new_tokens:],
            start=CONTEXT - new_tokens,
            block_ids=range(row * BLOCKS_EACH, (row + 1) * BLOCKS_EACH),
            sampling=state,
        )
        for row in range(rows)
    ]


def times(models: Mapping[int, LoadedModel], repeats: int) -> dict[tuple[int, str], list[float]]:
    """Milliseconds of each step, by number of ranks and kind; all take turns."""
    found: dict[tuple[int, str], list[float]] = {}
    for repeat in range(repeats + 1):
        for name, (rows, new_tokens) in STEPS.items():
            chunks = chunks_of(rows, new_tokens)
            for size, model in models.items():
                began_at = time.perf_counter()
                model.runner.run(chunks)
                if repeat:  # the first fills caches
                    seconds = time.perf_counter() - began_at
                    found.setdefault((size, name), []).append(seconds * 1e3)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=30)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        random_llama(
            Path(folder),
            hidden=512,
            layers=NUM_LAYERS,
            intermediate_size=1408,
            num_key_value_heads=8,
            vocab_size=VOCAB_SIZE,
        )
        models = {
            size: load_runner(
                Path(folder),
                device="cpu",
                num_blocks=16 * BLOCKS_EACH,
                kv_memory_bytes=0,
                tensor_parallel_size=size,
            )
            for size in SIZES
        }
    found = times(models, arguments.repeats)
    for model in models.values():
        model.close()
    rows = []
    for (size, name), milliseconds in found.items():
        median = statistics.median(milliseconds)
        print(f"{name}, {size} ranks: {median:.2f} ms")
        rows.append(
            {
                "load": f"{os.getloadavg()[0]:.1f}",
                "torch": torch.__version__,
                "model": MODEL,
                "step": name,
                "ranks": size,
                "repeats": arguments.repeats,
                "median_ms": f"{median:.2f}",
                "min_ms": f"{min(milliseconds):.2f}",
                "max_ms": f"{max(milliseconds):.2f}",
            }
        )
    append_rows("tensor_parallel", rows)


if __name__ == "__main__":
    main()

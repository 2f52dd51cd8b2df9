"""Our engine, asked by `process.py`: seconds of a prompt, or of a decode step."""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import torch

from lengthwise_engine.loaded_model import LoadedModel, load_runner
from lengthwise_engine.runner.base import SequenceChunk
from lengthwise_engine.runner.sampler import SamplingParameters, SamplingState
from lengthwise_kernels.host_memory import keep_freed_memory, use_huge_pages

BLOCK_SIZE = 16
NUM_BLOCKS = 1024


def chunks(rows: int, tokens: int, start: int) -> list[SequenceChunk]:
    """Tokens `start` to `tokens` of so many sequences of their own."""
    each = NUM_BLOCKS // rows
    made = []
    for row in range(rows):
        token_ids = [(7 * place + row) % 4000 + 2 for place in range(tokens)]
        state = SamplingState(
            sampling=SamplingParameters(temperature=0.0),
            token_ids=token_ids,
            num_prompt_tokens=tokens,
        )
        blocks = range(row * each, row * each + -(-tokens // BLOCK_SIZE))
        made.append(
            SequenceChunk(
                token_ids=token_ids[start:], start=start, block_ids=list(blocks), sampling=state
            )
        )
    return made


def seconds(model: LoadedModel, case: dict[str, Any]) -> float:
    rows, tokens = case["rows"], case["tokens"]
    if case["kind"] == "prefill":
        steps = [chunks(rows, tokens, 0)]
    else:
        model.runner.run(chunks(rows, tokens, 0))
        steps = [chunks(rows, tokens + n + 1, tokens + n) for n in range(case["steps"])]
    began_at = time.perf_counter()
    for step in steps:
        model.runner.run(step)
    return (time.perf_counter() - began_at) / len(steps)


def stream() -> str:
    """Bytes/s of reading, in ordinary pages and in huge ones."""
    rates = []
    for huge in (False, True):
        numbers = torch.ones(64 << 20)
        if huge:
            use_huge_pages(numbers.data_ptr(), numbers.nbytes)
        best = float("inf")
        for _ in range(3):
            for read in (torch.sum, torch.amax, lambda x: torch.dot(x, x)):
                began_at = time.perf_counter()
                read(numbers)
                best = min(best, time.perf_counter() - began_at)
        rates.append(numbers.nbytes / best)
        del numbers
    return " ".join(map(str, rates))


def main() -> None:
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    keep_freed_memory()
    model = load_runner(
        Path(sys.argv[1]),
        device="cpu",
        num_blocks=NUM_BLOCKS,
        dtype=torch.bfloat16,
        numerics="auto",
    )
    with os.fdopen(int(sys.argv[2]), "w", buffering=1) as answers:
        print("ready", file=answers)
        for line in sys.stdin:
            case = json.loads(line)
            print(stream() if case["kind"] == "stream" else seconds(model, case), file=answers)


if __name__ == "__main__":
    main()

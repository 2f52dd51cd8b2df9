"""Weights of 8 and 4 bits on a CPU, against full ones in the type that workers compute in there:
decode steps of 1, 8 and 32 rows after 128 tokens and a prompt of 128, in turns in one process, and
perplexities of the demo model. Modes are named after that type where it is not bfloat16.

Times are of the processor, on one thread, so that what else the machine does counts little. Ratios
are of the full ones', medians of turns: above 1, integers are faster. Aims at one row: int8 1.4,
int4 1.8; at 32 rows 1.0. Perplexity is of Python's standard library, which the demo model has read,
in pieces of 128 tokens.
"""

import argparse
import math
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import torch
from goodput.model import large_model
from rows import append_rows
from tokenizers import Tokenizer

from cpu_engine.ours import BLOCK_SIZE, NUM_BLOCKS, chunks
from lengthwise_engine.loaded_model import LoadedModel, load_runner
from lengthwise_engine.runner.base import SequenceChunk
from lengthwise_engine.runner.sampler import SamplingParameters, SamplingState
from lengthwise_kernels.host_memory import keep_freed_memory
from lengthwise_kernels.packed import multiplies_bfloat16

MODES: Final = ("int8", "int4")
CASES: Final = (("decode", 1), ("decode", 8), ("decode", 32), ("prefill", 1))
AIMS: Final = {("int8", 1): 1.4, ("int4", 1): 1.8, ("int8", 32): 1.0, ("int4", 32): 1.0}
TOKENS: Final = 128
STEPS: Final = 3
DEMO: Final = Path(__file__).parents[2] / "engine/lengthwise_engine/demo_model"
TEXT: Final = Path(argparse.__file__)
PIECES: Final = 16


def load(model: Path, mode: str) -> LoadedModel:
    options: dict[str, Any] = {"quantization": mode, "num_blocks": NUM_BLOCKS}
    return load_runner(model, device="cpu", numerics="auto", **options)


def named(mode: str) -> str:
    return mode if multiplies_bfloat16() else f"{mode}-float32"


def seconds(model: LoadedModel, kind: str, rows: int) -> float:
    """Of a step. What is in the cache is nothing to a step's time: it is empty."""
    if kind == "prefill":
        steps = [chunks(rows, TOKENS, 0)]
    else:
        steps = [chunks(rows, TOKENS + n + 1, TOKENS + n) for n in range(STEPS)]
    began_at = time.process_time()
    for step in steps:
        model.runner.run(step)
    return (time.process_time() - began_at) / len(steps)


def speeds(folder: Path, repeats: int) -> Iterator[dict[str, object]]:
    models = [load(folder, mode) for mode in ("none", *MODES)]
    for kind, rows in CASES:
        turns = [[seconds(model, kind, rows) for model in models] for _ in range(repeats + 1)][1:]
        for place, mode in enumerate(MODES, 1):
            yield {
                "mode": named(mode),
                "kind": kind,
                "rows": rows,
                "repeats": repeats,
                "milliseconds": f"{statistics.median(turn[place] for turn in turns) * 1e3:.2f}",
                "full_milliseconds": f"{statistics.median(turn[0] for turn in turns) * 1e3:.2f}",
                "ratio": f"{statistics.median(turn[0] / turn[place] for turn in turns):.2f}",
                "aim": AIMS.get((mode, rows), "") if kind == "decode" else "",
                "perplexity": "",
            }


def perplexity(model: LoadedModel) -> float:
    text = TEXT.read_text(encoding="utf-8")
    token_ids = Tokenizer.from_file(str(DEMO / "tokenizer.json")).encode(text).ids
    pieces = [token_ids[at : at + TOKENS] for at in range(0, TOKENS * PIECES, TOKENS)]
    each, loss = -(-TOKENS // BLOCK_SIZE), 0.0
    everything = SamplingParameters(temperature=0.0, top_logprobs=model.spec.vocab_size)
    for place in range(TOKENS - 1):
        rows = [
            SequenceChunk(
                token_ids=piece[place : place + 1],
                start=place,
                block_ids=list(range(row * each, (row + 1) * each)),
                sampling=SamplingState(
                    sampling=everything, token_ids=piece[: place + 1], num_prompt_tokens=1
                ),
            )
            for row, piece in enumerate(pieces)
        ]
        for piece, token in zip(pieces, model.runner.run(rows), strict=True):
            assert token is not None
            loss -= dict(token.top_logprobs)[piece[place + 1]]
    return math.exp(loss / (TOKENS - 1) / PIECES)


def main() -> None:
    parser = argparse.ArgumentParser(prog="quantised", description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, help="of the shape, where it lies, or is made")
    parser.add_argument("--repeats", type=int, default=7)
    arguments = parser.parse_args()
    keep_freed_memory()
    torch.set_num_threads(1)
    found: list[dict[str, object]] = []
    with large_model(arguments.model) as model:
        for row in speeds(model, arguments.repeats):
            print(row, flush=True)
            found.append(row)
    for mode in ("none", *MODES):
        value = f"{perplexity(load(DEMO, mode)):.3f}"
        print(f"demo model, {mode}: perplexity {value}")
        found.append({**dict.fromkeys(found[0], ""), "mode": named(mode), "perplexity": value})
    append_rows("cpu_quantised", found)


if __name__ == "__main__":
    main()

"""What `numerics: invariant` costs a CPU against `fast`: steps of one shape, computed in turns.

Processor time of the whole process, so that others on the machine disturb less; all kinds of step
take some 4 minutes. Budget: 5 % of each kind of step.
"""

import argparse
import operator
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import torch
from random_llama import random_llama
from rows import append_rows

from lengthwise_engine.kv.cache import KVCache
from lengthwise_engine.kv.layout import KVLayout
from lengthwise_engine.models.decoder import Decoder
from lengthwise_engine.models.decoder_loader import load_model
from lengthwise_engine.runner.base import SequenceChunk
from lengthwise_engine.runner.sampler import SamplingParameters, SamplingState
from lengthwise_engine.runner.torch_runner import TorchRunner
from steps.turns import in_turns

BLOCK_SIZE = 16
ROW_BLOCKS = 75
LAYERS = 6
"""Of Qwen2-0.5B's shape but for their number, which no ratio depends on."""

Steps = Mapping[str, Sequence[SequenceChunk]]


def steps() -> Steps:
    prefill = {f"prefill {tokens}": [chunk(tokens, 0, 0)] for tokens in (128, 512)}
    decode = {
        f"decode {rows} x {context}": [
            chunk(1, context + 3 * row, ROW_BLOCKS * row) for row in range(rows)
        ]
        for rows in (1, 8, 32)
        for context in (60, 250, 900)
    }
    return {**prefill, "prefill 512 after 1024": [chunk(512, 1024, 0)], **decode}


def chunk(tokens: int, start: int, first_block: int) -> SequenceChunk:
    end = start + tokens
    return SequenceChunk(
        token_ids=range(5, 5 + tokens),
        start=start,
        block_ids=range(first_block, first_block + -(-end // BLOCK_SIZE)),
        sampling=SamplingState(
            sampling=SamplingParameters(temperature=0.0),
            token_ids=range(end),
            num_prompt_tokens=1,
        ),
    )


def load(dtype: str) -> Mapping[str, TorchRunner]:
    """Both modes, over the same weights and cache."""
    with tempfile.TemporaryDirectory() as folder:
        random_llama(
            Path(folder),
            hidden=896,
            layers=LAYERS,
            dtype=dtype,
            intermediate_size=4864,
            num_key_value_heads=2,
        )
        model = load_model(Path(folder), torch.device("cpu"), getattr(torch, dtype))
    layout = KVLayout.of(model.spec, block_size=BLOCK_SIZE, dtype=dtype)
    cache = KVCache.allocate(layout, 32 * ROW_BLOCKS, torch.device("cpu"))
    return {
        mode: TorchRunner(Decoder(model.spec, model.weights, invariant=mode == "invariant"), cache)
        for mode in ("fast", "invariant")
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=4.0, help="for each kind of step")
    parser.add_argument("--threads", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--dtypes", nargs="*", default=["bfloat16", "float32"])
    arguments = parser.parse_args()
    rows = []
    for dtype in arguments.dtypes:
        runners = load(dtype)
        for threads in arguments.threads:
            torch.set_num_threads(threads)
            for step, chunks in steps().items():
                modes = {mode: partial(each.run, chunks) for mode, each in runners.items()}
                taken = in_turns(modes, arguments.seconds)
                ratios = map(operator.truediv, taken["invariant"], taken["fast"])
                row = {
                    "dtype": dtype,
                    "threads": threads,
                    "step": step,
                    "turns": len(taken["fast"]),
                    "fast_milliseconds": f"{statistics.median(taken['fast']):.2f}",
                    "invariant_milliseconds": f"{statistics.median(taken['invariant']):.2f}",
                    "ratio": f"{statistics.median(ratios):.3f}",
                }
                print(*row.values(), flush=True)
                rows.append(row)
    append_rows("numerics", rows)


if __name__ == "__main__":
    main()

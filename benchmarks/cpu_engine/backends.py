"""The two backends on a CPU: a checkpoint of one of our families computed by transformers' code
over our cache, beside our own code; prompts, and decode steps after 128 tokens, in turns in one
process. Appended to benchmarks/data/cpu_backends.csv.

The 0.5 B shape with a smaller vocabulary, in `numerics: auto`. Times are of the processor, on one
thread, so that what else the machine does counts little. Ratios are medians of turns, of
transformers' speed over ours. Aim: 0.9.
"""

import argparse
import statistics
import tempfile
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

import torch
from rows import append_rows
from steps.turns import in_turns

from cpu_engine.ours import NUM_BLOCKS, chunks
from lengthwise_checkpoint.architectures import ModelBackend
from lengthwise_engine.loaded_model import LoadedModel, load_runner
from lengthwise_kernels.host_memory import keep_freed_memory

SHAPE: Final[Mapping[str, Any]] = {
    "vocab_size": 16_384,
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "max_position_embeddings": 4096,
}
FAMILIES: Final = ("llama", "qwen3")
CASES: Final = (("decode", 1), ("decode", 8), ("decode", 32), ("prefill", 128), ("prefill", 512))
CACHED: Final = 128
AIM: Final = 0.9


def write_checkpoint(folder: Path, family: str) -> Path:
    """Of random weights, stored in bfloat16 as most are."""
    from transformers import AutoConfig, AutoModelForCausalLM

    make: Any = AutoModelForCausalLM.from_config
    torch.manual_seed(0)
    make(AutoConfig.for_model(family, **SHAPE), dtype=torch.bfloat16).save_pretrained(folder)
    return folder


def load(folder: Path, backend: ModelBackend, dtype: str) -> LoadedModel:
    return load_runner(
        folder,
        device="cpu",
        num_blocks=NUM_BLOCKS,
        dtype=getattr(torch, dtype),
        model_backend=backend,
        numerics="auto",
    )


def step(model: LoadedModel, kind: str, rows: int) -> Callable[[], object]:
    """What is in the cache is nothing to a step's time: it is empty."""
    made = chunks(1, rows, 0) if kind == "prefill" else chunks(rows, CACHED + 1, CACHED)
    return partial(model.runner.run, made)


def measured(family: str, dtype: str, seconds: float) -> Iterator[dict[str, object]]:
    with tempfile.TemporaryDirectory() as name:
        folder = write_checkpoint(Path(name), family)
        native, foreign = load(folder, "native", dtype), load(folder, "transformers", dtype)
        for kind, rows in CASES:
            steps = {"native": step(native, kind, rows), "foreign": step(foreign, kind, rows)}
            times = in_turns(steps, seconds)
            turns = list(zip(times["native"], times["foreign"], strict=True))
            yield {
                "family": family,
                "dtype": dtype,
                "invariant": f"{foreign.is_invariant}/{native.is_invariant}",
                "kind": kind,
                "rows": rows,
                "turns": len(turns),
                "milliseconds": f"{statistics.median(times['foreign']):.2f}",
                "native_milliseconds": f"{statistics.median(times['native']):.2f}",
                "ratio": f"{statistics.median(ours / theirs for ours, theirs in turns):.3f}",
                "aim": AIM,
            }


def main() -> None:
    parser = argparse.ArgumentParser(prog="backends", description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=10.0, help="of each kind of step")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    arguments = parser.parse_args()
    keep_freed_memory()
    torch.set_num_threads(1)
    found: list[dict[str, object]] = []
    for family in FAMILIES:
        for row in measured(family, arguments.dtype, arguments.seconds):
            print(row, flush=True)
            found.append(row)
    append_rows("cpu_backends", found)


if __name__ == "__main__":
    main()

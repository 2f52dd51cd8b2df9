"""A mixture of experts on a CPU: a step's rows grouped by expert, against each row by itself, the
same with `numerics: fast`, and transformers' code over our cache; decode steps after 128 tokens and
prompts, in turns in one process.

Qwen3-30B-A3B with half of each of its sizes, in two layers. Times are of the processor, on one
thread, so that what else the machine does counts little. Ratios are medians of turns: above 1,
grouped is faster. Aim: 3.0.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final
from unittest.mock import patch

import torch
from rows import append_rows

from cpu_engine.ours import NUM_BLOCKS, chunks
from lengthwise_engine.loaded_model import LoadedModel, load_runner
from lengthwise_engine.models.experts.routed import Experts
from lengthwise_kernels.host_memory import keep_freed_memory

SHAPE: Final[Mapping[str, Any]] = {
    "vocab_size": 8192,
    "hidden_size": 1024,
    "num_hidden_layers": 2,
    "num_attention_heads": 16,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "num_experts": 64,
    "num_experts_per_tok": 8,
    "moe_intermediate_size": 384,
    "norm_topk_prob": True,
}
RIVALS: Final = ("row by row", "fast", "transformers")
CASES: Final = (("decode", 1), ("decode", 8), ("decode", 32), ("prefill", 128), ("prefill", 512))
AIM: Final = 3.0
CACHED: Final = 128
STEPS: Final = 3


def write_checkpoint(folder: Path) -> Path:
    """Of random weights, of which every expert gets its rows, stored in bfloat16 as most are."""
    from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

    make: Any = Qwen3MoeForCausalLM
    torch.manual_seed(0)
    model = make(Qwen3MoeConfig(**SHAPE, max_position_embeddings=4096))
    model.to(torch.bfloat16).save_pretrained(folder)
    return folder


def row_by_row(experts: Experts, x: torch.Tensor) -> torch.Tensor:
    """Each row beside no other."""
    return torch.cat([_GROUPED(experts, row) for row in torch.split(x, 1)])


_GROUPED: Final = Experts.__call__


def seconds(model: LoadedModel, way: str, kind: str, rows: int) -> float:
    """Of a step. What is in the cache is nothing to a step's time: it is empty."""
    if kind == "prefill":
        steps = [chunks(1, rows, 0)]
    else:
        steps = [chunks(rows, CACHED + n + 1, CACHED + n) for n in range(STEPS)]
    call = row_by_row if way == "row by row" else _GROUPED
    with patch.object(Experts, "__call__", call):
        began_at = time.process_time()
        for step in steps:
            model.runner.run(step)
        return (time.process_time() - began_at) / len(steps)


def measured(checkpoint: Path, dtype: str, repeats: int) -> Iterator[dict[str, object]]:
    def load(backend: Any, numerics: Any) -> LoadedModel:
        options: dict[str, Any] = {"dtype": getattr(torch, dtype), "num_blocks": NUM_BLOCKS}
        return load_runner(
            checkpoint, device="cpu", model_backend=backend, numerics=numerics, **options
        )

    native = load("native", "auto")
    ways = {
        "grouped": native,
        "row by row": native,
        "fast": load("native", "fast"),
        "transformers": load("transformers", "fast"),
    }
    for kind, rows in CASES:
        turns = [
            {way: seconds(model, way, kind, rows) for way, model in ways.items()}
            for _ in range(repeats + 1)
        ][1:]
        for rival in RIVALS:
            yield {
                "rival": rival,
                "invariant": native.is_invariant,
                "dtype": dtype,
                "kind": kind,
                "rows": rows,
                "repeats": repeats,
                "milliseconds": f"{_median(turn['grouped'] * 1e3 for turn in turns):.2f}",
                "rival_milliseconds": f"{_median(turn[rival] * 1e3 for turn in turns):.2f}",
                "ratio": f"{_median(turn[rival] / turn['grouped'] for turn in turns):.2f}",
                "aim": AIM,
            }


def _median(values: Iterator[float]) -> float:
    return statistics.median(values)


def main() -> None:
    parser = argparse.ArgumentParser(prog="experts", description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    arguments = parser.parse_args()
    keep_freed_memory()
    torch.set_num_threads(1)
    found: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as folder:
        for row in measured(write_checkpoint(Path(folder)), arguments.dtype, arguments.repeats):
            print(row, flush=True)
            found.append(row)
    append_rows("cpu_experts", found)


if __name__ == "__main__":
    main()

"""What LoRA adapters cost a CPU: steps whose rows all have adapters against the base's, in turns.

Processor time of the whole process, so that others on the machine disturb less. 64 adapters of one
rank, of the shape of Qwen2-0.5B but for the number of layers, which no ratio depends on; rows take
them in turn, so that a step of 32 rows reads 32 of them. Aim: 0.85 of the base's throughput at 32
rows.
"""

import argparse
import operator
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from random_llama import random_llama
from rows import append_rows

from lengthwise_checkpoint.spec import DecoderSpec
from lengthwise_engine.kv.cache import KVCache
from lengthwise_engine.kv.layout import KVLayout
from lengthwise_engine.models.adapters.stack import PARTS, AdapterStack, StackPlan
from lengthwise_engine.models.decoder import Decoder
from lengthwise_engine.models.decoder_loader import load_model
from lengthwise_engine.models.shard import ModelShard
from lengthwise_engine.runner.base import SequenceChunk
from lengthwise_engine.runner.torch_runner import TorchRunner
from steps.numerics import BLOCK_SIZE, LAYERS, ROW_BLOCKS, chunk
from steps.turns import in_turns

NUM_ADAPTERS = 64

TARGETS: Mapping[str, Sequence[str]] = {
    "q, v": ("q_proj", "v_proj"),
    "attention": ("q_proj", "k_proj", "v_proj", "o_proj"),
    "all": tuple(member for members in PARTS.values() for member in members),
}
"""PEFT's default for this family, and what is trained beyond it."""

Steps = Mapping[str, Sequence[SequenceChunk]]


def steps() -> Steps:
    decode = {
        f"decode {rows} x 250": [chunk(1, 250 + 3 * row, ROW_BLOCKS * row) for row in range(rows)]
        for rows in (32, 8, 1)
    }
    return {**decode, "prefill 128": [chunk(128, 0, 0)]}


def random_stack(
    spec: DecoderSpec, rank: int, targets: Sequence[str], dtype: torch.dtype
) -> AdapterStack:
    """Of NUM_ADAPTERS adapters."""
    plan = StackPlan(targets=tuple(targets), rank=rank, size=NUM_ADAPTERS)
    stack = plan.stack(ModelShard(whole=spec), torch.device("cpu"), dtype)
    for tensor in stack.tensors():
        tensor.normal_(std=0.01)
    return stack


def base_model(dtype: str) -> Decoder:
    with tempfile.TemporaryDirectory() as folder:
        random_llama(
            Path(folder),
            hidden=896,
            layers=LAYERS,
            dtype=dtype,
            intermediate_size=4864,
            num_key_value_heads=2,
        )
        return load_model(Path(folder), torch.device("cpu"), getattr(torch, dtype))


def measure(
    runner: TorchRunner, chunks: Sequence[SequenceChunk], seconds: float
) -> Mapping[str, Sequence[float]]:
    """Milliseconds of processor time of the base's step and of the adapters', turn by turn."""
    adapted = [replace(each, adapter=row % NUM_ADAPTERS) for row, each in enumerate(chunks)]
    both = {"base": chunks, "adapters": adapted}
    return in_turns({name: partial(runner.run, each) for name, each in both.items()}, seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=4.0, help="for each kind of step")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--targets", nargs="*", default=list(TARGETS), choices=list(TARGETS))
    parser.add_argument("--steps", nargs="*", default=list(steps()), choices=list(steps()))
    parser.add_argument("--dtype", default="bfloat16")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    base, rows = base_model(arguments.dtype), []
    layout = KVLayout.of(base.spec, block_size=BLOCK_SIZE, dtype=arguments.dtype)
    cache = KVCache.allocate(layout, 32 * ROW_BLOCKS, torch.device("cpu"))
    for targets in arguments.targets:
        stack = random_stack(base.spec, arguments.rank, TARGETS[targets], base.dtype)
        runner = TorchRunner(Decoder(base.spec, base.weights, adapters=stack), cache)
        for step in arguments.steps:
            taken = measure(runner, steps()[step], arguments.seconds)
            ratios = map(operator.truediv, taken["base"], taken["adapters"])
            row = {
                "dtype": arguments.dtype,
                "threads": arguments.threads,
                "adapters": NUM_ADAPTERS,
                "rank": arguments.rank,
                "targets": targets,
                "step": step,
                "turns": len(taken["base"]),
                "base_milliseconds": f"{statistics.median(taken['base']):.2f}",
                "adapters_milliseconds": f"{statistics.median(taken['adapters']):.2f}",
                "throughput_ratio": f"{statistics.median(ratios):.3f}",
            }
            print(*row.values(), flush=True)
            rows.append(row)
    append_rows("adapters", rows)


if __name__ == "__main__":
    main()

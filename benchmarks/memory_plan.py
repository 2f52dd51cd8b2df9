"""What memory holds which model, worked out by the code that workers run.

Run `python -m memory_plan`; it prints the table of docs/kv-sizing.md and appends to
benchmarks/data/memory_plan.csv. The models are published ones by shape (memory_plan_models.json).
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rows import append_rows

from lengthwise_checkpoint.config_json import ConfigJson
from lengthwise_checkpoint.families import read_decoder_spec
from lengthwise_checkpoint.spec import DecoderSpec
from lengthwise_engine.errors import DeviceMemoryError
from lengthwise_engine.models.shard import ModelShard
from lengthwise_engine.runner.memory_plan import MemoryPlan, MemorySettings, plan_memory
from lengthwise_worker.config import WorkerConfig

MODELS: Final = Path(__file__).with_name("memory_plan_models.json")
GIB: Final = 1 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """`dtype` is what `auto` means there, of checkpoints in bfloat16; on a CPU without instructions
    for that."""

    name: str
    device_type: str
    gibibytes: int
    dtype: str


DEVICES: Final = (
    Device(name="CPU 24 GB", device_type="cpu", gibibytes=24, dtype="float32"),
    Device(name="GPU 24 GB", device_type="cuda", gibibytes=24, dtype="bfloat16"),
    Device(name="GPU 80 GB", device_type="cuda", gibibytes=80, dtype="bfloat16"),
    Device(name="GPU 141 GB", device_type="cuda", gibibytes=141, dtype="bfloat16"),
)


def read_models() -> dict[str, DecoderSpec]:
    """Specs of published models by name."""
    models = json.loads(MODELS.read_text())
    rest = {"torch_dtype": "bfloat16", "hidden_act": "silu"}
    return {
        name: read_decoder_spec(ConfigJson(MODELS, {**config, **rest}))
        for name, config in models.items()
    }


def plan_of(spec: DecoderSpec, device: Device) -> MemoryPlan | None:
    """Of one worker alone, with defaults; None where it does not start."""
    defaults = WorkerConfig(model="any")
    try:
        return plan_memory(
            ModelShard(whole=spec),
            device_type=device.device_type,
            dtype=device.dtype,
            budget_bytes=int(defaults.memory_share * device.gibibytes * GIB),
            settings=MemorySettings(graph_memory_bytes=defaults.graph_memory_bytes),
        )
    except DeviceMemoryError:
        return None


def table() -> Iterator[str]:
    """Markdown: blocks, and the context that they leave of the model's."""
    heads = [f"{device.name}, {device.dtype}" for device in DEVICES]
    yield f"| model, its context | {' | '.join(heads)} |"
    yield f"|---|{'---|' * len(DEVICES)}"
    for name, spec in read_models().items():
        plans = [plan_of(spec, device) for device in DEVICES]
        yield f"| {name}, {spec.context_length:,} | {' | '.join(map(_cell, plans))} |"


def _cell(plan: MemoryPlan | None) -> str:
    if plan is None:
        return "no"
    context = f"**{plan.context_length:,}**" if plan.is_clamped_by_cache else "whole"
    return f"{plan.num_blocks:,}, {context}"


def main() -> None:
    """Prints and records."""
    print("\n".join(table()))
    rows: list[dict[str, object]] = []
    for name, spec in read_models().items():
        for device in DEVICES:
            plan = plan_of(spec, device)
            rows.append(
                {
                    "model": name,
                    "device": device.name,
                    "dtype": device.dtype,
                    "budget_bytes": plan.budget_bytes if plan else "",
                    "weight_bytes": plan.weight_bytes if plan else "",
                    "workspace_bytes": plan.workspace_bytes if plan else "",
                    "graph_bytes": plan.graph_bytes if plan else "",
                    "num_blocks": plan.num_blocks if plan else 0,
                    "cache_tokens": plan.cache_tokens if plan else 0,
                    "model_context": spec.context_length,
                    "context": plan.context_length if plan else 0,
                }
            )
    append_rows("memory_plan", rows)


if __name__ == "__main__":
    main()

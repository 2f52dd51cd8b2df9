"""How long a request waits for an adapter that is not in memory: 64 of rank 16 on a Qwen2 of 36 M,
float32, one worker that computes prompts too, with places for eight of them.

In turns: a request of an adapter that is on disk, half of the time out of the page cache too, one
of the same adapter, and one of the base; prompts of 64 tokens, each like no other. Beside the
times to first tokens, which all that runs on the machine lengthens, the processor time of a load
alone, also of an adapter of the 0.36 B shape.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Final

import torch
from goodput.model import LARGE, SMALL, VOCAB_SIZE, write_model
from rows import append_rows
from safetensors.torch import save_file
from steps.adapters import TARGETS

import lengthwise
from lengthwise_checkpoint.adapters.adapter_config import CONFIG, WEIGHTS
from lengthwise_checkpoint.spec import DecoderSpec
from lengthwise_engine.models.adapters.files import projection_parts
from lengthwise_engine.models.adapters.room import AdapterRoom, AdapterSettings
from lengthwise_engine.models.decoder_loader import read_spec
from lengthwise_engine.models.shard import ModelShard
from lengthwise_local import LocalCluster

NUM_ADAPTERS: Final = 64
PLACES: Final = 8
RANK: Final = 16
PROMPT_TOKENS: Final = 64
MLP: Final = ("gate_proj", "up_proj", "down_proj")

Times = dict[str, list[tuple[float, float]]]
"""Seconds to the first token, by where the adapter was; and how much longer than the request of the
same turn whose adapter was in memory."""

WARM, CACHED, COLD, BASE = "in memory", "in the page cache", "on disk", "base"


def large_spec(spec: DecoderSpec) -> DecoderSpec:
    """With the sizes of LARGE."""
    return replace(
        spec,
        num_layers=LARGE.layers,
        hidden_size=LARGE.hidden,
        num_heads=LARGE.heads,
        num_kv_heads=LARGE.kv_heads,
        head_dim=LARGE.hidden // LARGE.heads,
        intermediate_size=LARGE.mlp,
        windows=(None,) * LARGE.layers,
    )


def write_adapters(
    folder: Path, spec: DecoderSpec, targets: Sequence[str], count: int = NUM_ADAPTERS
) -> dict[str, Path]:
    """In bfloat16, as most are published; all of the same numbers, under names of their own."""
    parts, tensors = projection_parts(ModelShard(whole=spec)), {}
    for layer in range(spec.num_layers):
        for target in targets:
            inputs, outputs = map(len, parts[target])
            room = "mlp" if target in MLP else "self_attn"
            name = f"base_model.model.model.layers.{layer}.{room}.{target}"
            tensors[f"{name}.lora_A.weight"] = torch.randn(RANK, inputs).bfloat16()
            tensors[f"{name}.lora_B.weight"] = 1e-3 * torch.randn(outputs, RANK).bfloat16()
    found = {}
    for number in range(count):
        own = found[f"a{number}"] = folder / f"a{number}"
        own.mkdir(parents=True)
        save_file(tensors, own / WEIGHTS)
        config = {"peft_type": "LORA", "r": RANK, "lora_alpha": 2 * RANK}
        (own / CONFIG).write_text(json.dumps(config))
    os.sync()  # what is not written yet cannot be dropped
    return found


def forget(path: Path) -> None:
    """Out of the page cache."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)


def play(cluster: LocalCluster, model: str, adapters: Mapping[str, Path], rounds: int) -> Times:
    times: Times = {BASE: [], WARM: [], CACHED: [], COLD: []}
    draw = Random(1)
    with lengthwise.Client(cluster.endpoints) as client:

        def ask(name: str) -> float:
            prompt = [draw.randrange(300, VOCAB_SIZE) for _ in range(PROMPT_TOKENS)]
            began_at = time.perf_counter()
            chunks = client.stream(prompt, model=name, max_tokens=1, ignore_eos=True)
            next(chunks)
            seconds = time.perf_counter() - began_at
            for _ in chunks:
                pass
            return seconds

        ask(model)
        for turn in range(rounds * len(adapters)):
            name, folder = list(adapters.items())[turn % len(adapters)]
            # The other half in the next round.
            where = COLD if (turn + turn // len(adapters)) % 2 else CACHED
            if where == COLD:
                forget(folder / WEIGHTS)
            loaded, warm, base = ask(f"{model}:{name}"), ask(f"{model}:{name}"), ask(model)
            for what, seconds in ((where, loaded), (WARM, warm), (BASE, base)):
                times[what].append((seconds, seconds - warm))
    return times


def load_milliseconds(spec: DecoderSpec, adapters: Mapping[str, Path]) -> float:
    """Of processor time, the median of a load."""
    first = dict(list(adapters.items())[:2])
    settings, shard = AdapterSettings(folders=first, places=1), ModelShard(whole=spec)
    room = AdapterRoom(settings, shard, torch.device("cpu"), torch.float32)
    room.open()
    taken = []
    for number in range(9):
        began_at = time.process_time()
        room.put(0, room.files[number % 2])
        taken.append(time.process_time() - began_at)
    return 1e3 * statistics.median(taken)


def measured(model: Path, targets: str, rounds: int) -> Iterator[dict[str, object]]:
    spec = read_spec(model)
    with tempfile.TemporaryDirectory() as folder:
        adapters = write_adapters(Path(folder), spec, TARGETS[targets])
        megabytes = (adapters["a0"] / WEIGHTS).stat().st_size / 1e6
        load = load_milliseconds(spec, adapters)
        large = write_adapters(Path(folder) / "large", large_spec(spec), TARGETS[targets], 2)
        large_megabytes = (large["a0"] / WEIGHTS).stat().st_size / 1e6
        large_load = load_milliseconds(large_spec(spec), large)
        with LocalCluster(
            model=model,
            adapters=[f"{name}={each}" for name, each in adapters.items()],
            prefill=0,
            decode=1,
            configs={"decode": {"dtype": "float32", "adapter_places": PLACES}},
        ) as cluster:
            times = play(cluster, model.name, adapters, rounds)
    for what, found in times.items():
        seconds, longer = zip(*found, strict=True)
        yield {
            "adapters": NUM_ADAPTERS,
            "places": PLACES,
            "rank": RANK,
            "targets": targets,
            "megabytes": f"{megabytes:.1f}",
            "load_processor_milliseconds": f"{load:.1f}",
            "large_megabytes": f"{large_megabytes:.1f}",
            "large_load_processor_milliseconds": f"{large_load:.1f}",
            "adapter": what,
            "requests": len(seconds),
            "ttft_p50_milliseconds": f"{1e3 * statistics.median(seconds):.1f}",
            "ttft_p95_milliseconds": f"{1e3 * statistics.quantiles(seconds, n=20)[18]:.1f}",
            "longer_p50_milliseconds": f"{1e3 * statistics.median(longer):.1f}",
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        model = write_model(SMALL, Path(folder) / "small")
        for targets in ("q, v", "all"):
            for row in measured(model, targets, arguments.rounds):
                print(*row.values(), flush=True)
                rows.append(row)
    append_rows("cold_adapters", rows)


if __name__ == "__main__":
    main()

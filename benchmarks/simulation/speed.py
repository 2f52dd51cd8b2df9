"""What simulating costs: the event loop alone, and Mooncake's trace on 64 H100.

Run `python -m simulation.speed TRACE [--requests N]` with mooncake_conversation.jsonl; rows go to
benchmarks/data/simulation_speed.csv. In processor seconds. The share of policy is that of the
samples, one every 5 ms of them, whose innermost frame is code of policy, or called by it.
"""

import argparse
import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Final

from rows import append_rows

from lengthwise_simulator.cluster.simulation import Simulation
from lengthwise_simulator.cluster.spec import ClusterPolicies
from lengthwise_simulator.cost.gpus import find_gpu
from lengthwise_simulator.events import EventHeap
from lengthwise_simulator.search.shape import DeploymentShape, ModelOnGpus
from lengthwise_simulator.workload.requests import as_recorded
from lengthwise_simulator.workload.traces import read_trace
from simulation.disciplines import QWEN_32B

SHAPE: Final = DeploymentShape(prefill=12, prefill_ranks=4, decode=4, decode_ranks=4)
LLAMA_70B: Final = replace(
    QWEN_32B, model_type="llama", context_length=131_072, vocab_size=128_256, num_layers=80,
    hidden_size=8192, intermediate_size=28_672, num_heads=64, windows=(None,) * 80, qkv_bias=False,
)  # fmt: skip
LOOP_EVENTS: Final = 300_000
SAMPLE_SECONDS: Final = 0.005


class PolicySampler:
    """Counts, while a function runs, in whose code it is."""

    def __init__(self) -> None:
        self._samples: Counter[bool] = Counter()

    def share_during(self, function: Callable[[], object]) -> float:
        signal.signal(signal.SIGPROF, self._sample)
        signal.setitimer(signal.ITIMER_PROF, SAMPLE_SECONDS, SAMPLE_SECONDS)
        try:
            function()
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
        return self._samples[True] / max(self._samples.total(), 1)

    def _sample(self, _: int, frame: FrameType | None) -> None:
        while frame is not None:
            name = frame.f_globals.get("__name__", "")
            if name.startswith("lengthwise_"):
                self._samples[name.startswith("lengthwise_policy")] += 1
                return
            frame = frame.f_back


def row_of_loop() -> dict[str, object]:
    """Three events are always to come, as of a worker that is busy."""
    heap = EventHeap()

    def again() -> None:
        if heap.num_events < LOOP_EVENTS:
            heap.after(0.001, again)

    for _ in range(3):
        heap.after(0.0, again)
    began = time.process_time()
    heap.run()
    return _row("event loop alone", 0, heap.num_events, time.process_time() - began, heap.now, 0.0)


def row_of_trace(path: Path, most: int) -> dict[str, object]:
    model = ModelOnGpus(spec=LLAMA_70B, gpu=find_gpu("H100"), gpu_name="H100")
    requests = as_recorded(read_trace(path, most))
    simulation = Simulation(model.cluster(SHAPE, ClusterPolicies(), 0), requests)
    began = time.process_time()
    share = PolicySampler().share_during(simulation.run)
    took = time.process_time() - began
    heap = simulation.heap
    setting = f"{path.stem}, Llama 3.1 70B, {SHAPE}, H100"
    return _row(setting, len(requests), heap.num_events, took, heap.now, share)


def _row(
    setting: str, requests: int, events: int, seconds: float, simulated: float, share: float
) -> dict[str, object]:
    return {
        "setting": setting,
        "requests": requests,
        "events": events,
        "processor_seconds": round(seconds, 2),
        "simulated_seconds": round(simulated, 1),
        "us_per_event": round(seconds / events * 1e6, 2),
        "policy_share": round(share, 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("trace", type=Path)
    parser.add_argument("--requests", type=int, default=1_000_000, help="Of its first.")
    asked = parser.parse_args()
    table = [row_of_loop(), row_of_trace(asked.trace, asked.requests)]
    for row in table:
        print(row, flush=True)
    append_rows("simulation_speed", table)


if __name__ == "__main__":
    main()

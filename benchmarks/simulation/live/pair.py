"""Predicted beside measured: a small random Llama on two CPU workers, one for prompts and one for
tokens, or both for both, under three loads. Run `python -m simulation.live.pair`; six minutes.

Costs are those that the workers have fitted by then, as `lengthwise calibrate` reads them; what a
call takes is told by requests that come alone. Then the same arrivals are simulated, with nothing
fitted to them, and played. Rows go to benchmarks/data/live_pair.csv, with the cores that the
cluster, this client and others used meanwhile: on two cores the three stand in each other's way,
and what runs beside is not in a prediction.
"""

import argparse
import tempfile
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from statistics import median
from typing import Final

from cpu import CpuWatch
from random_llama import random_llama
from rows import append_rows

from lengthwise_cli.bench.load import Load
from lengthwise_cli.bench.plan import PlannedRequest
from lengthwise_cli.bench.run import Run, percentile, tpots, ttfts
from lengthwise_local import LocalCluster
from lengthwise_policy.types import Role
from lengthwise_simulator.cluster.simulation import SimulatedRun, Simulation
from lengthwise_simulator.cluster.spec import ClusterSpec, WorkerGroup
from lengthwise_simulator.cost.running import RunningCosts
from lengthwise_simulator.results import RunSummary
from lengthwise_simulator.workload.arrivals import gamma, poisson
from lengthwise_simulator.workload.planned import ArrivingRequest
from lengthwise_simulator.workload.requests import at_times
from lengthwise_simulator.workload.traces import TraceRow

HIDDEN: Final = 384
LAYERS: Final = 6
CONTEXT: Final = 2048
KV_BYTES_PER_TOKEN: Final = LAYERS * 2 * 64 * 4  # one KV head of 64 in float32
KV_MEMORY_BYTES: Final = 1 << 28
LOOPBACK: Final = 1e9

PROMPTS: Final = (32, 768)
OUTPUTS: Final = (8, 48)
LOADS: Final = (0.3, 0.5, 0.7)
"""Shares of what eight callers get in a closed loop."""

CALLERS: Final = 8
WARM_REQUESTS: Final = 120
SECONDS: Final = 45.0
ALONE: Final = 15


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """Both have two workers with a core each, or the share of it that others leave."""

    name: str
    prefill: int
    decode: int


ARMS: Final = (
    Arm(name="1 prefill, 1 decode", prefill=1, decode=1),
    Arm(name="aggregated, 2", prefill=0, decode=2),
)


class LivePair:
    """A running cluster of one arm."""

    def __init__(self, arm: Arm, cluster: LocalCluster) -> None:
        self._arm = arm
        self._cluster = cluster
        self._num_plays = 0

    def play(self, requests: Sequence[ArrivingRequest], most_at_once: int = 256) -> Run:
        """Each play has texts of its own. Errors: RuntimeError where more than a tenth failed."""
        self._num_plays += 1
        load = Load(
            plan=[
                PlannedRequest(
                    due_at=each.arrived_at,
                    prompt_tokens=each.prompt_tokens,
                    output_tokens=each.output_tokens,
                    text=each.text,
                )
                for each in requests
            ],
            seed=self._num_plays,
            max_in_flight=most_at_once,
            timeout=120.0,
            endpoints=self._cluster.endpoints,
            model=None,
            tls=None,
        )
        run, _ = load.run()
        failed = [each.error for each in run.results if each.error]
        if 10 * len(failed) > len(run.results):
            raise RuntimeError(f"{len(failed)} of {len(run.results)} failed: {failed[0]}")
        return run

    def costs(self) -> RunningCosts:
        """As the workers have fitted them. Errors: SimulationError."""
        texts = []
        for worker in self._cluster.workers:
            address = worker.metrics_address
            with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as answer:
                texts.append((worker.name, answer.read().decode()))
        return RunningCosts.of_metrics(texts)

    def spec(self, costs: RunningCosts, call_seconds: float) -> ClusterSpec:
        def group(role: Role, count: int) -> WorkerGroup:
            return WorkerGroup(
                role=role,
                count=count,
                costs=costs,
                kv_tokens=KV_MEMORY_BYTES // KV_BYTES_PER_TOKEN,
                kv_bytes_per_token=KV_BYTES_PER_TOKEN,
                link_bytes_per_second=LOOPBACK,
            )

        groups = (group("prefill", self._arm.prefill), group("decode", self._arm.decode))
        return ClusterSpec(groups=groups, call_seconds=call_seconds, longest_prompt=PROMPTS[1])

    def call_seconds(self, costs: RunningCosts) -> float:
        """With which requests that come alone get their first tokens as soon as they do."""
        alone = arrivals(Random(0), gamma(1.0, 0.0, Random(0)), ALONE)
        measured = median(ttfts(self.play(alone).answered))

        def predicted(call_seconds: float) -> float:
            return _ttft(Simulation(self.spec(costs, call_seconds), alone).run())

        base, step = predicted(0.0), 1e-3
        return max(measured - base, 0.0) / (predicted(step) - base) * step


def arrivals(draw: Random, times: Iterator[float], number: int) -> list[ArrivingRequest]:
    rows = [
        TraceRow(None, draw.randint(*PROMPTS), draw.randint(*OUTPUTS), ()) for _ in range(number)
    ]
    return at_times(rows, times, number, draw)


def _ttft(run: SimulatedRun) -> float:
    return RunSummary.of(run).classes[-1].ttft_seconds[0]


def compared(predicted: RunSummary, measured: Run) -> Iterator[tuple[str, float, float]]:
    """Milliseconds, of all requests that were answered."""
    every = predicted.classes[-1]
    for name, simulated, live in (
        ("TTFT", every.ttft_seconds, ttfts(measured.answered)),
        ("TPOT", every.tpot_seconds, tpots(measured.answered)),
    ):
        for percent, value in zip((50, 90), simulated, strict=False):
            yield f"{name} p{percent}, ms", value * 1e3, percentile(live, percent) * 1e3


def rows_of_arm(arm: Arm, pair: LivePair) -> Iterator[dict[str, object]]:
    at_once = arrivals(Random(1), gamma(1e3, 0.0, Random(1)), WARM_REQUESTS)
    capacity = WARM_REQUESTS / pair.play(at_once, CALLERS).seconds
    # The last steps before a fit are like those that are predicted.
    half = capacity / 2
    pair.play(arrivals(Random(2), poisson(half, Random(2)), int(half * SECONDS)))
    costs = pair.costs()
    spec = pair.spec(costs, pair.call_seconds(costs))
    print(f"{arm.name}: {capacity:.2f} requests/s at most, {spec.call_seconds * 1e3:.1f} ms a call")
    print(costs)
    for number, share in enumerate(LOADS, 3):
        rate = share * capacity
        requests = arrivals(Random(number), poisson(rate, Random(number)), int(rate * SECONDS))
        predicted = RunSummary.of(Simulation(spec, requests).run())
        watch = CpuWatch()
        measured = pair.play(requests)
        use = watch.use()
        for measure, simulated, live in compared(predicted, measured):
            yield {
                "model": f"llama {HIDDEN}x{LAYERS}",
                "arm": arm.name,
                "load": share,
                "rate": round(rate, 2),
                "requests": len(requests),
                "failed": len(measured.results) - len(measured.answered),
                "measure": measure,
                "predicted": round(simulated, 2),
                "measured": round(live, 2),
                "ratio": round(simulated / live, 3),
                "call_ms": round(spec.call_seconds * 1e3, 2),
                "cluster_cores": round(use.cluster, 2),
                "client_cores": round(use.client, 2),
                "foreign_cores": round(use.foreign, 2),
            }


def start(arm: Arm, model: Path) -> LocalCluster:
    worker: Mapping[str, object] = {"threads": 1, "kv_memory_bytes": KV_MEMORY_BYTES}
    return LocalCluster(
        model=model,
        prefill=arm.prefill,
        decode=arm.decode,
        device="cpu",
        configs={"prefill": worker, "decode": worker},
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dry", action="store_true", help="records nothing")
    asked = parser.parse_args()
    table = []
    with tempfile.TemporaryDirectory() as folder:
        model = random_llama(
            Path(folder) / "llama", hidden=HIDDEN, layers=LAYERS, vocab_size=320,
            max_position_embeddings=CONTEXT,
        )  # fmt: skip
        for arm in ARMS:
            with start(arm, model) as cluster:
                for row in rows_of_arm(arm, LivePair(arm, cluster)):
                    print(*row.values(), sep=" | ", flush=True)
                    table.append(row)
    if not asked.dry:
        append_rows("live_pair", table)


if __name__ == "__main__":
    main()

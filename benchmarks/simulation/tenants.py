"""Two tenants' adapters on one base against a deployment of each tenant's merged model, at equal
cores, in simulated time: latencies of whole requests under skewed and bursty traffic.

Apart, each tenant has one core; together, two workers with a core each serve both, and every step
takes longer by what adapters cost at the worst in adapters.csv. Steps otherwise take what one core
needs with the small model (`goodput.simulation`): this compares ways to share cores, without the
noise of a machine. Published: BlockLLM (arXiv:2404.18322) lowers P95 latency by a third.
"""

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from heapq import merge
from itertools import takewhile
from random import Random
from typing import Final

from goodput.simulation import COSTS, KV_BYTES_PER_TOKEN, KV_TOKENS, LINK_BYTES_PER_SECOND
from rows import DATA, append_rows
from traces import AZURE_CONVERSATIONS

from lengthwise_policy.cost.model import CostModel
from lengthwise_simulator.cluster.journey import Journey
from lengthwise_simulator.cluster.simulation import Simulation
from lengthwise_simulator.cluster.spec import ClusterSpec, WorkerGroup
from lengthwise_simulator.cost.profile import LinearCosts
from lengthwise_simulator.results import percentile
from lengthwise_simulator.workload.arrivals import gamma
from lengthwise_simulator.workload.planned import ArrivingRequest, single_request
from lengthwise_simulator.workload.traces import TraceRow, read_trace

SECONDS: Final = 600.0
SEEDS: Final = (1, 2)
RATES: Final = (0.5, 1.0)
"""Requests a second of both tenants together: half of what two cores serve, and nearly all."""


@dataclass(frozen=True, slots=True)
class Traffic:
    """`share` of the requests are the first tenant's; `variation` is that of the gaps between one
    tenant's arrivals, 1 for Poisson."""

    name: str
    share: float
    variation: float


TRAFFIC: Final = (
    Traffic("even", 0.5, 1.0),
    Traffic("even, bursty", 0.5, 3.0),
    Traffic("70 : 30", 0.7, 1.0),
    Traffic("70 : 30, bursty", 0.7, 3.0),
    Traffic("80 : 20, bursty", 0.8, 3.0),
)
TARGETS: Final = ("q, v", "all")


def throughput_ratio(targets: str, kind: str) -> float:
    """How much of the base's throughput steps of this kind had with adapters, at least."""
    with (DATA / "adapters.csv").open(encoding="utf-8", newline="") as file:
        found = [
            float(row["throughput_ratio"])
            for row in csv.DictReader(file)
            if row["targets"] == targets and row["rank"] == "16" and row["step"].startswith(kind)
        ]
    return min(found)


def adapted_costs(targets: str) -> LinearCosts:
    prompt, decode = (1 / throughput_ratio(targets, kind) for kind in ("prefill", "decode"))
    base = COSTS.model
    return LinearCosts(
        CostModel(
            step_seconds=base.step_seconds * decode,
            token_seconds=base.token_seconds * prompt,
            attention_seconds=base.attention_seconds,
            history_seconds=base.history_seconds,
            decode_request_seconds=base.decode_request_seconds * decode,
            decode_context_seconds=base.decode_context_seconds,
        )
    )


def arrivals(
    traffic: Traffic, rate: float, rows: Sequence[TraceRow], seed: int
) -> tuple[list[ArrivingRequest], list[ArrivingRequest]]:
    """Of each tenant, for SECONDS."""
    tenants = []
    for number, share in enumerate((traffic.share, 1 - traffic.share)):
        draw = Random(f"{seed} {number}")
        times = takewhile(SECONDS.__gt__, gamma(rate * share, traffic.variation, draw))
        lengths = ((at, draw.choice(rows)) for at in times)
        tenants.append(
            [
                # No prompt is like another, of the other tenant's neither.
                single_request(at, row.prompt_tokens, row.output_tokens, key=2 * key + number)
                for key, (at, row) in enumerate(lengths)
            ]
        )
    first, second = tenants
    return first, second


def cluster(cores: int, costs: LinearCosts) -> ClusterSpec:
    """Workers with a core each, which compute prompts beside the tokens of others."""
    group = WorkerGroup(
        role="decode",
        count=cores,
        costs=costs,
        kv_tokens=KV_TOKENS,
        kv_bytes_per_token=KV_BYTES_PER_TOKEN,
        link_bytes_per_second=LINK_BYTES_PER_SECOND,
    )
    return ClusterSpec(groups=(group,))


def seconds(spec: ClusterSpec, requests: Sequence[ArrivingRequest]) -> list[float]:
    """That each request took as a whole. Errors: RuntimeError where one was refused."""

    def whole(journey: Journey) -> float:
        if journey.ending != "done":
            raise RuntimeError(f"a request ended {journey.ending}: {journey.reason}")
        return journey.ended_at - journey.arrived_at

    return [whole(journey) for journey in Simulation(spec, iter(requests)).run().journeys]


def compared(
    traffic: Traffic, rate: float, rows: Sequence[TraceRow]
) -> Iterator[dict[str, object]]:
    """A row for each of TARGETS."""
    played = [arrivals(traffic, rate, rows, seed) for seed in SEEDS]
    apart = [
        each
        for tenants in played
        for tenant in tenants
        for each in seconds(cluster(1, COSTS), tenant)
    ]
    for targets in TARGETS:
        costs = adapted_costs(targets)
        together = [
            each
            for tenants in played
            for each in seconds(
                cluster(2, costs), list(merge(*tenants, key=lambda one: one.arrived_at))
            )
        ]
        yield {
            "traffic": traffic.name,
            "requests_per_second": rate,
            "targets": targets,
            "requests": len(apart),
            **_at("apart", apart),
            **_at("together", together),
            "p95_change": f"{_p95(together) / _p95(apart) - 1:+.3f}",
        }


def _at(name: str, latencies: Sequence[float]) -> dict[str, object]:
    ordered = sorted(latencies)
    return {f"{name}_p{percent}": f"{percentile(ordered, percent):.3f}" for percent in (50, 95)}


def _p95(latencies: Sequence[float]) -> float:
    return percentile(sorted(latencies), 95)


def main() -> None:
    lengths = read_trace(AZURE_CONVERSATIONS)
    rows = []
    for rate in RATES:
        for traffic in TRAFFIC:
            for row in compared(traffic, rate, lengths):
                print(*row.values(), flush=True)
                rows.append(row)
    append_rows("tenants", rows)


if __name__ == "__main__":
    main()

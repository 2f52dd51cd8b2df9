"""The disciplines of one simulated prefill worker at three loads: thousands of requests, no noise.

It separates disciplines that a live run of seconds cannot; it leaves out local prefill and
decoding. Load is the share of its time that the worker computes under `fcfs`.

Run `python -m scheduling.prefill_disciplines [--trace TRACE] [--workload NAME] [--load SHARE]`; it
takes 15 minutes of a core, and rows go to benchmarks/data/prefill_loads.csv.
"""

import argparse
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from statistics import mean
from typing import Final

from rows import append_rows

from lengthwise_policy.length_class import DEFAULT_SHORT_TOKENS, LENGTH_CLASSES, length_class
from lengthwise_policy.placement.policy import PlacementPolicy
from lengthwise_policy.prefill.policy import PrefillPolicy
from lengthwise_policy.types import Role
from lengthwise_simulator.cluster.simulation import SimulatedRun, Simulation
from lengthwise_simulator.cluster.spec import ClusterPolicies, ClusterSpec, WorkerGroup
from scheduling.workloads import Workload, workloads

LOADS: Final = (0.5, 0.7, 0.9)
SEEDS: Final = range(1, 5)
FIRST_RATE: Final = 4.0  # of the run by which rates are found
QUEUE_LIMIT: Final = 100_000  # nothing is refused

POLICIES: Final[Mapping[str, PrefillPolicy]] = {
    "fcfs": PrefillPolicy(discipline="fcfs", queue_limit=QUEUE_LIMIT),
    "short_first": PrefillPolicy(discipline="short_first", queue_limit=QUEUE_LIMIT),
    "length_aware, classes apart": PrefillPolicy(queue_limit=QUEUE_LIMIT, top_up_share=0.0),
    "length_aware": PrefillPolicy(queue_limit=QUEUE_LIMIT),
}

Seconds = dict[str, list[float]]
"""To first tokens, by class: the tokens that had to be computed, up to DEFAULT_SHORT_TOKENS and
above. The worker's own boundary lies elsewhere."""


def play(workload: Workload, policy: PrefillPolicy, seed: int, rate: float) -> SimulatedRun:
    policies = ClusterPolicies(placement=PlacementPolicy(local_prefill=False), prefill=policy)
    groups = (_workers("prefill", workload), _workers("decode", workload))
    cluster = ClusterSpec(groups=groups, policies=policies, longest_prompt=32_768)
    return Simulation(cluster, workload.requests(seed, rate)).run()


def busy_share(run: SimulatedRun) -> float:
    return run.workers[0].busy_seconds / run.seconds


def rate_of(workload: Workload, load: float) -> float:
    """At which `fcfs` keeps the worker busy for this share of the time."""
    rate = FIRST_RATE
    for _ in range(3):
        shares = [busy_share(play(workload, POLICIES["fcfs"], seed, rate)) for seed in (1, 2)]
        rate *= load / mean(shares)
    return rate


def first_tokens(run: SimulatedRun) -> Seconds:
    """Of prompts that are not too long for routers: a trace has some."""
    took: Seconds = {name: [] for name in LENGTH_CLASSES}
    for journey in run.journeys:
        if journey.ending == "refused":
            continue
        length = length_class(journey.residual_tokens, DEFAULT_SHORT_TOKENS)
        took[length].append(journey.ttft_seconds)
    return took


def _workers(role: Role, workload: Workload) -> WorkerGroup:
    return WorkerGroup(
        role=role,
        count=1,
        costs=workload.costs,
        kv_tokens=1_600_000,
        kv_bytes_per_token=1,
        link_bytes_per_second=1e9,
    )


def rows_of(name: str, workload: Workload, loads: Iterable[float]) -> Iterator[dict[str, object]]:
    rates = {load: rate_of(workload, load) for load in loads}
    for load, rate in rates.items():
        for policy_name, policy in POLICIES.items():
            runs = [play(workload, policy, seed, rate) for seed in SEEDS]
            row: dict[str, object] = {
                "workload": name,
                "load": load,
                "policy": policy_name,
                "requests_per_second": round(rate, 2),
                "seeds": len(SEEDS),
                "busy": round(mean(map(busy_share, runs)), 3),
            }
            played = [first_tokens(run) for run in runs]
            for length in LENGTH_CLASSES:
                seconds = sorted(second for each in played for second in each[length])
                row[f"{length}_requests"] = len(seconds)
                row[f"{length}_mean_ms"] = round(mean(seconds) * 1e3, 1)
                row[f"{length}_p50_ms"] = round(seconds[len(seconds) // 2] * 1e3, 1)
                row[f"{length}_p99_ms"] = round(seconds[99 * len(seconds) // 100] * 1e3, 1)
            yield row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trace", type=Path, help="A further one, with times.")
    parser.add_argument("--workload", action="append", help="Of those all; repeat for more.")
    parser.add_argument("--load", action="append", type=float, help="Of 0.5, 0.7 and 0.9 all.")
    asked = parser.parse_args()
    found = workloads(asked.trace)
    table = []
    for name in asked.workload or found:
        for row in rows_of(name, found[name], asked.load or LOADS):
            print(row, flush=True)
            table.append(row)
    append_rows("prefill_loads", table)


if __name__ == "__main__":
    main()

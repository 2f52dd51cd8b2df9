"""Whether routers that share workers meet at the same ones: queues and first tokens with one router
and with eight, whose pictures lag by 0.05 s or by the 0.67 s that they ask a thousand workers for.

Run `python -m fleet.herding`; it appends to benchmarks/data/fleet_herding.csv. Time is simulated,
the policies are those that serve.
"""

import argparse
from collections.abc import Iterator, Sequence
from random import Random
from statistics import fmean
from typing import Final

from rows import append_rows

from lengthwise_policy.admission.admission import AdmissionPolicy
from lengthwise_policy.cost.model import CostModel
from lengthwise_policy.placement.outstanding import LONGEST_INTERVAL, SHORTEST_INTERVAL
from lengthwise_policy.types import Role
from lengthwise_simulator.cluster.simulation import Simulation
from lengthwise_simulator.cluster.spec import ClusterPolicies, ClusterSpec, WorkerGroup
from lengthwise_simulator.cost.profile import LinearCosts
from lengthwise_simulator.workload.planned import ArrivingRequest, single_request

COSTS: Final = CostModel(
    step_seconds=0.006,
    token_seconds=2e-5,
    attention_seconds=1e-10,
    history_seconds=1e-8,
    decode_request_seconds=5e-5,
    decode_context_seconds=2e-8,
)
LOAD: Final = 0.8
"""Of what the prefill workers can compute."""


def prompt_tokens(draw: Random) -> int:
    """Median 665."""
    return min(int(draw.lognormvariate(6.5, 1.0)) + 1, 8000)


def requests(count: int, workers: int, seed: int) -> Iterator[ArrivingRequest]:
    """Independent arrivals, prompts that share nothing."""
    sample = Random(0)
    lengths = [prompt_tokens(sample) for _ in range(4000)]
    seconds = fmean(
        -(-tokens // 512) * COSTS.step_seconds + COSTS.chunk_seconds(tokens) for tokens in lengths
    )
    draw, at = Random(seed), 0.0
    for key in range(count):
        at += draw.expovariate(LOAD * workers / seconds)
        output = min(int(draw.lognormvariate(3.0, 0.8)) + 1, 400)
        yield single_request(at, prompt_tokens(draw), output, key=key + 1)


def group(role: Role, count: int) -> WorkerGroup:
    return WorkerGroup(
        role=role,
        count=count,
        costs=LinearCosts(COSTS),
        kv_tokens=400_000,
        kv_bytes_per_token=131_072,
        link_bytes_per_second=25e9,
    )


def simulate(workers: int, routers: int, interval: float, count: int) -> dict[str, object]:
    """One row."""
    cluster = ClusterSpec(
        groups=(group("prefill", workers), group("decode", workers)),
        routers=routers,
        status_seconds=interval,
        policies=ClusterPolicies(admission=AdmissionPolicy(max_requests_in_flight=100_000)),
    )
    run = Simulation(cluster, requests(count, workers, seed=0)).run()
    journeys = [each for each in run.journeys if each.ending == "done"][count // 10 :]
    queued = [each.began_at - each.arrived_at for each in journeys if each.prefill is not None]
    first = [each.ttft_seconds for each in journeys]
    between = [each.tpot_seconds for each in journeys if each.generated > 1]
    return {
        "workers_per_role": workers,
        "routers": routers,
        "status_seconds": round(interval, 2),
        "load": LOAD,
        "requests": count,
        "queue_p50_ms": percentile_ms(queued, 50),
        "queue_p99_ms": percentile_ms(queued, 99),
        "ttft_mean_ms": round(fmean(first) * 1e3, 1),
        "ttft_p99_ms": percentile_ms(first, 99),
        "tpot_p99_ms": percentile_ms(between, 99),
    }


def percentile_ms(seconds: Sequence[float], percent: int) -> float:
    ranked = sorted(seconds)
    return round(ranked[min(len(ranked) * percent // 100, len(ranked) - 1)] * 1e3, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, nargs="+", default=(16, 64))
    parser.add_argument("--requests", type=int, default=6000)
    parser.add_argument("--dry", action="store_true", help="print rows without recording them")
    arguments = parser.parse_args()
    rows = []
    for workers in arguments.workers:
        for routers in (1, 8):
            for interval in (SHORTEST_INTERVAL, LONGEST_INTERVAL):
                rows.append(simulate(workers, routers, interval, arguments.requests))
                print(rows[-1], flush=True)
    if not arguments.dry:
        append_rows("fleet_herding", rows)


if __name__ == "__main__":
    main()

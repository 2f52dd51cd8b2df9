"""The disciplines of one simulated prefill worker: thousands of requests, no model, no noise.

A simulated cluster, whose steps take what a cost model says, that of the benchmark's small Llama on
one core. It separates disciplines that a live run of seconds cannot; it leaves out prefix reuse,
local prefill and decoding.

Run `python -m scheduling.prefill_disciplines`; rows go to
benchmarks/data/prefill_disciplines.csv.
"""

from collections.abc import Mapping
from statistics import mean
from typing import Final

from rows import append_rows
from traces import SHAREGPT_LENGTHS

from lengthwise_policy.cost.model import CostModel
from lengthwise_policy.length_class import LENGTH_CLASSES
from lengthwise_policy.placement.policy import PlacementPolicy
from lengthwise_policy.prefill.policy import PrefillPolicy
from lengthwise_policy.types import Role
from lengthwise_simulator.cluster.simulation import Simulation
from lengthwise_simulator.cluster.spec import ClusterPolicies, ClusterSpec, WorkerGroup
from lengthwise_simulator.cost.profile import LinearCosts
from lengthwise_simulator.workload.planned import single_request
from scheduling.arms import CONTEXT_LENGTH
from scheduling.traffic import MULTI_TURN, LengthClass, Lengths, open_loop, read_lengths, scale

COST: Final = CostModel(
    step_seconds=0.0057,
    token_seconds=1.5e-4,
    attention_seconds=4.3e-8,
    history_seconds=0.0,
    decode_request_seconds=0.0,
    decode_context_seconds=0.0,
)
RATE: Final = 18.0  # requests/s: the worker is busy for 70 % of the time
SECONDS: Final = 120.0
SEEDS: Final = range(1, 7)
REPLY_SECONDS: Final = 0.5  # a turn's reply, before the user thinks

POLICIES: Final[Mapping[str, PrefillPolicy]] = {
    "fcfs": PrefillPolicy(discipline="fcfs"),
    "short_first": PrefillPolicy(discipline="short_first"),
    "length_aware": PrefillPolicy(),
    "length_aware, age 0.3 s": PrefillPolicy(max_age_seconds=0.3),
    "length_aware, age 1 s": PrefillPolicy(max_age_seconds=1.0),
}

# When it comes, new tokens, class as reported.
Arrival = tuple[float, int, LengthClass]


def arrivals(rows: list[Lengths], seed: int) -> list[Arrival]:
    """Turns come when the ones before would have been answered: equal for all disciplines."""
    found = []
    for conversation in open_loop(
        MULTI_TURN, rows, context_length=CONTEXT_LENGTH, seed=seed, rate=RATE, seconds=SECONDS
    ):
        at = conversation.start_at
        for index, turn in enumerate(conversation.turns):
            at += turn.think_seconds + REPLY_SECONDS if index else 0.0
            if at < SECONDS:
                tokens = conversation.new_tokens(index)
                found.append((at, tokens, conversation.length_class(index)))
    return sorted(found)


def play(policy: PrefillPolicy, coming: list[Arrival]) -> dict[LengthClass, list[float]]:
    """Seconds from arrival to the first token, by class. One token is all that is generated, so
    that the decode worker has nothing to do."""
    policies = ClusterPolicies(
        placement=PlacementPolicy(local_prefill=False), prefill=policy, prefix_caching=False
    )
    cluster = ClusterSpec(groups=(_workers("prefill"), _workers("decode")), policies=policies)
    requests = [
        single_request(at, tokens, 1, key=key) for key, (at, tokens, _) in enumerate(coming)
    ]
    took: dict[LengthClass, list[float]] = {name: [] for name in LENGTH_CLASSES}
    for journey in Simulation(cluster, requests).run().journeys:
        took[coming[journey.number][2]].append(journey.ttft_seconds)
    return took


def _workers(role: Role) -> WorkerGroup:
    return WorkerGroup(
        role=role,
        count=1,
        costs=LinearCosts(COST),
        kv_tokens=1_600_000,
        kv_bytes_per_token=1,
        link_bytes_per_second=1e9,
    )


def main() -> None:
    rows = scale(read_lengths(SHAREGPT_LENGTHS), CONTEXT_LENGTH)
    traffic = [arrivals(rows, seed) for seed in SEEDS]
    table = []
    for name, policy in POLICIES.items():
        played = [play(policy, coming) for coming in traffic]
        row: dict[str, object] = {"policy": name, "requests_per_second": RATE, "seeds": len(SEEDS)}
        for length in LENGTH_CLASSES:
            seconds = sorted(second for each in played for second in each[length])
            row[f"{length}_requests"] = len(seconds)
            row[f"{length}_mean_ms"] = round(mean(seconds) * 1e3, 1)
            row[f"{length}_p50_ms"] = round(seconds[len(seconds) // 2] * 1e3, 1)
            row[f"{length}_p99_ms"] = round(seconds[99 * len(seconds) // 100] * 1e3, 1)
        print(row, flush=True)
        table.append(row)
    append_rows("prefill_disciplines", table)


if __name__ == "__main__":
    main()

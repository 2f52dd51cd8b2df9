"""Goodput of placement and scheduling alone: the same arms, rates and arrivals in simulated time.

Steps take what one core needs with the small model, so it compares policies, without noise, and
tells nothing of a machine: the cores of two workers share no memory's bandwidth here.
"""

from collections.abc import Sequence
from typing import Final

from rows import append_rows
from traces import AZURE_CONVERSATIONS

from goodput.arms import DEFAULT, FIXED, Ours
from goodput.measure import OBJECTIVES, attainment, estimate_goodput
from goodput.player import Outcome
from goodput.report import show
from goodput.traffic import Arrival, poisson, read_lengths
from lengthwise_policy.cost.model import CostModel
from lengthwise_policy.objectives import Objectives
from lengthwise_policy.placement.policy import PlacementPolicy
from lengthwise_policy.types import Role
from lengthwise_simulator.cluster.simulation import Simulation
from lengthwise_simulator.cluster.spec import ClusterPolicies, ClusterSpec, WorkerGroup
from lengthwise_simulator.cost.profile import LinearCosts
from lengthwise_simulator.workload.planned import single_request

COSTS: Final = LinearCosts(
    CostModel(
        step_seconds=0.009,
        token_seconds=0.55e-3,
        attention_seconds=2e-8,
        history_seconds=1e-6,
        decode_request_seconds=0.8e-3,
        decode_context_seconds=2e-6,
    )
)
KV_TOKENS: Final = 131_072
KV_BYTES_PER_TOKEN: Final = 6144
LINK_BYTES_PER_SECOND: Final = 1e9
RATES: Final = (3.0, 3.5, 4.0, 5.0, 6.0, 6.5, 7.0)
SEEDS: Final = (1, 2, 3)
REQUESTS: Final = 600
STRICT: Final = Objectives(
    ttft_short_seconds=OBJECTIVES[-1].ttft_seconds,
    ttft_long_seconds=OBJECTIVES[-1].ttft_seconds,
    tpot_seconds=OBJECTIVES[-1].tpot_seconds,
)


def simulate(arm: Ours, arrivals: Sequence[Arrival]) -> list[Outcome]:
    """What becomes of each request."""
    local_prefill = bool(arm.router.get("local_prefill", True))
    policies = ClusterPolicies(
        placement=PlacementPolicy(objectives=STRICT, local_prefill=local_prefill)
    )
    groups = _group("prefill", arm.prefill), _group("decode", arm.decode)
    requests = (
        single_request(each.at, each.prompt_tokens, each.output_tokens, key=number)
        for number, each in enumerate(arrivals)
    )
    run = Simulation(ClusterSpec(groups=groups, policies=policies), requests).run()
    return [
        Outcome(
            ttft_seconds=journey.ttft_seconds,
            tpot_seconds=journey.tpot_seconds,
            output_tokens=journey.generated,
            error="" if journey.ending == "done" else journey.reason,
        )
        for journey in run.journeys
    ]


def _group(role: Role, count: int) -> WorkerGroup:
    return WorkerGroup(
        role=role,
        count=count,
        costs=COSTS,
        kv_tokens=KV_TOKENS,
        kv_bytes_per_token=KV_BYTES_PER_TOKEN,
        link_bytes_per_second=LINK_BYTES_PER_SECOND,
    )


def main() -> None:
    lengths, rows = read_lengths(AZURE_CONVERSATIONS), []
    met: dict[tuple[str, str], dict[float, list[bool]]] = {}
    for rate in RATES:
        played = [poisson(lengths, rate=rate, count=REQUESTS, seed=seed) for seed in SEEDS]
        for arm in (DEFAULT, *FIXED):
            outcomes = [each for arrivals in played for each in simulate(arm, arrivals)]
            row: dict[str, object] = {"arm": arm.name, "rate": rate, "requests": len(outcomes)}
            for objective in OBJECTIVES:
                rungs = met.setdefault((arm.name, objective.name), {})
                rungs[rate] = [objective.is_met(outcome) for outcome in outcomes]
                row[objective.column] = round(attainment(rungs[rate]).value, 4)
            rows.append(row)
    show(rows, list(rows[0]))
    for (arm_name, objective_name), rungs in met.items():
        print(f"{arm_name}, {objective_name}: {estimate_goodput(rungs)} requests/s")
    append_rows("goodput_simulation", rows)


if __name__ == "__main__":
    main()

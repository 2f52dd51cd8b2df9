"""Goodput of placement and scheduling alone: the policies that serve, on workers of simulated time.

Steps take what a cost model says, which a worker's scheduler and the router know exactly: that of
one core with the small model. What it leaves out: processes, statuses that lag, the transfer of KV,
and that two workers share the memory's bandwidth. So it compares policies, without noise, and tells
nothing of a machine.
"""

import random
from collections.abc import Sequence
from typing import Final

from rows import append_rows
from traces import AZURE_CONVERSATIONS

from goodput.arms import DEFAULT, FIXED, Ours
from goodput.measure import OBJECTIVES, attainment
from goodput.nodes import STRICT, Clock, DecodeNode, PrefillNode, Served
from goodput.player import Outcome
from goodput.report import show
from goodput.traffic import Arrival, poisson, read_lengths
from lengthwise_policy.cost.model import CostModel
from lengthwise_policy.placement.placement import PlacementInput, PlacementRequest
from lengthwise_policy.placement.policy import PlacementPolicy
from lengthwise_policy.placement.strategies import DEFAULT_STRATEGY, make_strategy
from lengthwise_policy.types import RequestId

SMALL_COST: Final = CostModel(
    step_seconds=0.009,
    token_seconds=0.55e-3,
    attention_seconds=2e-8,
    history_seconds=1e-6,
    decode_request_seconds=0.8e-3,
    decode_context_seconds=2e-6,
)
RATES: Final = (4.0, 4.5, 5.0, 5.5, 6.0, 6.5, 7.0)
SEEDS: Final = (1, 2, 3)
REQUESTS: Final = 600


def simulate(arm: Ours, arrivals: Sequence[Arrival], cost: CostModel) -> list[Outcome]:
    """What becomes of each request."""
    clock = Clock()
    prefill = {
        node.worker_id: node for node in (PrefillNode(i, clock, cost) for i in range(arm.prefill))
    }
    decode = {
        node.worker_id: node for node in (DecodeNode(i, clock, cost) for i in range(arm.decode))
    }
    policy = PlacementPolicy(
        objectives=STRICT, local_prefill=bool(arm.router.get("local_prefill", True))
    )
    strategy = make_strategy(DEFAULT_STRATEGY, policy, random.Random(0).random)

    def arrive(served: Served) -> None:
        asked = PlacementRequest(
            num_tokens=served.arrival.prompt_tokens, max_new_tokens=served.arrival.output_tokens
        )
        views = [node.view() for node in prefill.values()], [n.view() for n in decode.values()]
        placement = strategy(
            PlacementInput(request=asked, prefill=views[0], decode=views[1], now=clock.now)
        )
        if placement.decode is not None:
            served.decode = decode[placement.decode]
            served.decode.reserve(served, local=placement.prefill is None)
        if placement.prefill is not None:
            prefill[placement.prefill].enqueue(served)

    requests = [Served(RequestId(str(i)), arrival) for i, arrival in enumerate(arrivals)]
    for served in requests:
        clock.after(served.arrival.at, lambda served=served: arrive(served))  # type: ignore[misc]
    clock.run()
    return [served.outcome for served in requests]


def main() -> None:
    lengths, rows = read_lengths(AZURE_CONVERSATIONS), []
    for rate in RATES:
        for arm in (DEFAULT, *FIXED):
            outcomes = [
                outcome
                for seed in SEEDS
                for outcome in simulate(
                    arm, poisson(lengths, rate=rate, count=REQUESTS, seed=seed), SMALL_COST
                )
            ]
            row: dict[str, object] = {"arm": arm.name, "rate": rate, "requests": len(outcomes)}
            for objective in OBJECTIVES:
                share = attainment([objective.is_met(outcome) for outcome in outcomes])
                row[objective.column] = round(share.value, 4)
            rows.append(row)
    show(rows, list(rows[0]))
    append_rows("goodput_simulation", rows)


if __name__ == "__main__":
    main()

"""Splitwise's designs at equal power: BLOOM-176B, Azure's conversations, a fifth of its clusters of
the power of 40 DGX-H100; costs and the power of machines are those of its own simulator.

Published: AA has 2.15 times the throughput of the A100 baseline, HA 1.18 times that of the H100
baseline, where its objectives are met: slowdowns over a request alone on A100, of TTFT by 2, 3 and
6 at P50, P90 and P99, of the time between tokens and of the whole request by 1.25, 1.5 and 5.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf
from pathlib import Path
from random import Random
from typing import Final

from traces import AZURE_CONVERSATIONS

from lengthwise_policy.decode.policy import DecodePolicy
from lengthwise_policy.objectives import Objectives
from lengthwise_policy.placement.policy import PlacementPolicy
from lengthwise_policy.prefill.policy import PrefillPolicy
from lengthwise_policy.types import Role
from lengthwise_simulator.cluster.journey import Journey
from lengthwise_simulator.cluster.simulation import Simulation
from lengthwise_simulator.cluster.spec import ClusterPolicies, ClusterSpec, WorkerGroup
from lengthwise_simulator.cost.published import SplitwiseCosts
from lengthwise_simulator.results import PERCENTS, percentile
from lengthwise_simulator.workload.arrivals import poisson
from lengthwise_simulator.workload.planned import ArrivingRequest
from lengthwise_simulator.workload.requests import at_times
from lengthwise_simulator.workload.traces import read_trace

MODEL: Final = "bloom-176b"
RANKS: Final = 8
KV_BYTES: Final = 2 * 70 * 14_336 * 2
WEIGHT_BYTES: Final = 329e9
KV_TOKENS: Final = int((RANKS * (80 << 30) - WEIGHT_BYTES) // KV_BYTES)
"""All of the memory that weights leave."""

LINK: Final = 200e9
SECONDS: Final = 30.0
"""Of arrivals; some 900 requests."""

SLOWDOWNS: Final = {"TTFT": (2.0, 3.0, 6.0), "TPOT": (1.25, 1.5, 5.0), "E2E": (1.25, 1.5, 5.0)}
"""At most, at PERCENTS."""

A100, H100, CAPPED = "a100-80gb", "h100-80gb", "h100-80gb-pcap"
POWER: Final = {A100: 24.8 / 44, H100: 1.0, CAPPED: 30.8 / 44}
"""Of a machine, in DGX-H100."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Design:
    """Machines for prompts and for tokens; without the former all do both."""

    prompts: int
    prompt_gpu: str
    tokens: int
    token_gpu: str

    @property
    def power(self) -> float:
        return self.prompts * POWER[self.prompt_gpu] + self.tokens * POWER[self.token_gpu]


DESIGNS: Final[Mapping[str, Design]] = {
    "Baseline-H100": Design(prompts=0, prompt_gpu=H100, tokens=8, token_gpu=H100),
    "Baseline-A100": Design(prompts=0, prompt_gpu=A100, tokens=14, token_gpu=A100),
    "Splitwise-AA": Design(prompts=9, prompt_gpu=A100, tokens=5, token_gpu=A100),
    "Splitwise-HH": Design(prompts=5, prompt_gpu=H100, tokens=3, token_gpu=H100),
    "Splitwise-HA": Design(prompts=5, prompt_gpu=H100, tokens=5, token_gpu=A100),
    "Splitwise-HHcap": Design(prompts=5, prompt_gpu=H100, tokens=4, token_gpu=CAPPED),
}
PUBLISHED: Final = {
    "Splitwise-AA": ("Baseline-A100", 2.15),
    "Splitwise-HA": ("Baseline-H100", 1.18),
}
GUESS: Final = 30.0

POLICIES: Final = ClusterPolicies(
    strategy="least_loaded",
    placement=PlacementPolicy(
        objectives=Objectives(ttft_short_seconds=60, ttft_long_seconds=60, tpot_seconds=60)
    ),
    prefill=PrefillPolicy(discipline="fcfs", chunk_tokens=2048),
    decode=DecodePolicy(max_running=512, step_tokens=2048 + 512),
    prefix_caching=False,
)
"""Its scheduling: shortest queue, first come, prompts in batches of 2,048 tokens, whole beside the
tokens of others (no objective cuts them)."""


def cluster(design: Design, costs: Callable[[str], SplitwiseCosts]) -> ClusterSpec:
    def group(role: Role, count: int, gpu: str) -> WorkerGroup:
        return WorkerGroup(
            role=role,
            count=count,
            costs=costs(gpu),
            kv_tokens=KV_TOKENS,
            kv_bytes_per_token=KV_BYTES,
            link_bytes_per_second=LINK,
            gpus=RANKS,
        )

    groups = (
        group("prefill", design.prompts, design.prompt_gpu),
        group("decode", design.tokens, design.token_gpu),
    )
    placement = replace(POLICIES.placement, local_prefill=not design.prompts)
    return ClusterSpec(groups=groups, policies=replace(POLICIES, placement=placement))


def meets_objectives(journeys: Sequence[Journey], alone: SplitwiseCosts) -> bool:
    """All of the nine; none may fail."""
    slowdowns: dict[str, list[float]] = {name: [] for name in SLOWDOWNS}
    for each in journeys:
        if each.ending != "done":
            return False
        ttft = alone.step_seconds([(each.request.prompt_tokens, 0)], 0, 0)
        tpot = alone.step_seconds([], 1, each.request.prompt_tokens)
        whole = ttft + tpot * (each.generated - 1)
        slowdowns["TTFT"].append(each.ttft_seconds / ttft)
        slowdowns["E2E"].append((each.ended_at - each.arrived_at) / whole)
        if each.generated > 1:
            slowdowns["TPOT"].append(each.tpot_seconds / tpot)
    return all(
        percentile(sorted(slowdowns[name]), percent) <= most
        for name, limits in SLOWDOWNS.items()
        for percent, most in zip(PERCENTS, limits, strict=True)
    )


def highest_rate(stands: Callable[[float], bool]) -> float:
    """Requests a second, within 3 %; by doubling, then bisection."""
    low, high = 0.0, inf
    rate = GUESS
    while high == inf or high - low > 0.03 * high:
        if stands(rate):
            low = rate
        else:
            high = rate
        if high < GUESS / 50:
            return 0.0
        rate = 1.5 * low if high == inf else (low + high) / 2
    return low


def rows_of_designs(path: Path) -> Iterator[dict[str, object]]:
    """`path`: its splitwise_perf_model.csv. Errors: SimulationError, OSError."""
    lengths = read_trace(AZURE_CONVERSATIONS)

    def costs(gpu: str) -> SplitwiseCosts:
        return SplitwiseCosts(path, MODEL, gpu, RANKS, as_simulated=True)

    alone = costs(A100)
    stood: dict[str, float] = {}
    for name, design in DESIGNS.items():
        asked = cluster(design, costs)

        def workload(rate: float) -> list[ArrivingRequest]:
            return at_times(lengths, poisson(rate, Random(0)), int(rate * SECONDS), Random(1))

        def stands(rate: float) -> bool:
            run = Simulation(asked, workload(rate)).run()  # noqa: B023
            return meets_objectives(run.journeys, alone)

        stood[name] = highest_rate(stands) / design.power
        base, published = PUBLISHED.get(name, ("Baseline-H100", ""))
        measures: dict[str, tuple[float, object]] = {
            "requests/s for the power of a DGX-H100": (stood[name], ""),
            f"over {base}": (stood[name] / stood.get(base, stood[name]), published),
        }
        for measure, (simulated, known) in measures.items():
            yield {
                "setting": "Splitwise at equal power, BLOOM-176B, Azure's conversations",
                "arm": name,
                "shape": f"{design.prompts} for prompts, {design.tokens} for tokens",
                "measure": measure,
                "published": known,
                "simulated": round(simulated, 3),
            }

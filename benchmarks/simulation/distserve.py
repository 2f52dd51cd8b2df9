"""DistServe's self-check: OPT-13B on at most four A100, ShareGPT, 90 % of the requests with a first
token within 200 ms and 100 ms for each after it. Published: 1.56 requests/s per GPU, with two ranks
for prefill and one for decode (LLMServe/DistServe, simdistserve/README.md; its bisection stops at a
quarter of a request, so that 1.56 means 1.56 to 1.72).

Its data set is not at hand: prompts are made of ShareGPT's lengths by its recipe, the turns before
a random one joined, below 2,048 tokens in all.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import islice
from random import Random
from typing import Final

from traces import SHAREGPT_LENGTHS

from lengthwise_policy.objectives import Objectives
from lengthwise_policy.placement.policy import PlacementPolicy
from lengthwise_policy.prefill.policy import PrefillPolicy
from lengthwise_policy.types import Role
from lengthwise_simulator.cluster.simulation import Simulation
from lengthwise_simulator.cluster.spec import ClusterPolicies, ClusterSpec, WorkerGroup
from lengthwise_simulator.cost.published import (
    OPT_13B_A100,
    OPT_13B_KV_BYTES,
    opt_13b_kv_tokens,
)
from lengthwise_simulator.results import RunSummary
from lengthwise_simulator.search.goodput import highest_rate
from lengthwise_simulator.workload.arrivals import poisson
from lengthwise_simulator.workload.planned import ArrivingRequest, single_request
from lengthwise_simulator.workload.traces import TraceRow, read_trace

PUBLISHED: Final = 1.56
PUBLISHED_RANKS: Final = (2, 1)
LONGEST: Final = 2048
TURNS: Final = 20.0  # mean, of whole conversations; few of them fit
REQUESTS: Final = 300
NVLINK: Final = 300e9
UNLIMITED: Final = 4_000_000
OBJECTIVES: Final = Objectives(ttft_short_seconds=0.2, ttft_long_seconds=0.2, tpot_seconds=0.1)

THEIRS: Final = ClusterPolicies(
    placement=PlacementPolicy(objectives=OBJECTIVES, local_prefill=False),
    prefill=PrefillPolicy(discipline="fcfs", chunk_tokens=4096),
    prefix_caching=False,
)
"""First come, first served, in batches of up to 4,096 tokens."""

OURS: Final = ClusterPolicies(
    placement=PlacementPolicy(objectives=OBJECTIVES), prefix_caching=False
)

WHOLE: Final = PrefillPolicy(chunk_tokens=LONGEST)
"""Every prompt in one step."""

THEIR_SETTING: Final = "theirs, KV unlimited"
SHAPES: Final = ((2, 1), (2, 2), (1, 1), (1, 2))

ARMS: Final[Mapping[str, tuple[ClusterPolicies, bool]]] = {
    THEIR_SETTING: (THEIRS, False),
    "theirs": (THEIRS, True),
    "default policies": (OURS, True),
    "default policies, chunks of 2048": (replace(OURS, prefill=WHOLE), True),
}
"""And whether memory is limited: DistServe's simulator does not model it."""


def joined(rows: list[TraceRow], draw: Random) -> Iterator[tuple[int, int]]:
    """Tokens of a prompt with its history, and of the reply."""
    while True:
        turns = int(draw.expovariate(1 / TURNS)) + 1
        history = sum(sum(draw.choice(rows)[1:3]) for _ in range(turns - 1))
        row = draw.choice(rows)
        prompt = history + row.prompt_tokens
        if min(row[1:3]) >= 4 and prompt + row.output_tokens < LONGEST:
            yield prompt, row.output_tokens


def cluster(ranks: tuple[int, int], policies: ClusterPolicies, *, is_limited: bool) -> ClusterSpec:
    def group(role: Role, count: int) -> WorkerGroup:
        return WorkerGroup(
            role=role,
            count=1,
            costs=OPT_13B_A100[count],
            kv_tokens=opt_13b_kv_tokens(count) if is_limited else UNLIMITED,
            kv_bytes_per_token=OPT_13B_KV_BYTES,
            link_bytes_per_second=NVLINK,
            gpus=count,
        )

    return ClusterSpec(
        groups=(group("prefill", ranks[0]), group("decode", ranks[1])),
        policies=policies,
        longest_prompt=LONGEST,
    )


def rows_of_distserve() -> Iterator[dict[str, object]]:
    lengths = list(islice(joined(read_trace(SHAREGPT_LENGTHS), Random(0)), REQUESTS))

    def workload(rate: float) -> list[ArrivingRequest]:
        times = poisson(rate, Random(0))
        return [single_request(next(times), *each, key=key) for key, each in enumerate(lengths, 1)]

    for arm, (policies, is_limited) in ARMS.items():
        for ranks in SHAPES if arm == THEIR_SETTING else SHAPES[:2]:
            asked = cluster(ranks, policies, is_limited=is_limited)

            def run(rate: float) -> RunSummary:
                return RunSummary.of(Simulation(asked, workload(rate)).run(REQUESTS // 10))  # noqa: B023

            stood = highest_rate(run, guess=1.5 * asked.gpus, attainment=0.9, precision=0.03)
            yield {
                "setting": "DistServe, OPT-13B, ShareGPT, 200/100 ms",
                "arm": arm,
                "shape": f"prefill {ranks[0]}, decode {ranks[1]}",
                "measure": "requests/s per GPU",
                "published": PUBLISHED if ranks == PUBLISHED_RANKS else "",
                "simulated": round(stood.rate / asked.gpus, 3),
            }

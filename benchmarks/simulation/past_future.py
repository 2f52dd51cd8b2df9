"""Past-Future's comparison: admission on one worker that computes prompts and tokens, Llama-2-7B on
an A100 with its 120,000 tokens of KV, callers in a closed loop, three mixes of uniform lengths.

Published: hardly any request is evicted with a reserve of 3 to 5 %, and up to 2 to 3 times the
goodput of schedulers that look at worst cases, or at what is free (at 99 % of memory). Goodput is
of requests with a first token within 10 s and no longer than 1.5 s between two tokens. Of those
gaps the simulator knows how long a preempted request has no blocks, not what computing it again
takes.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from math import inf
from random import Random
from typing import Final

from lengthwise_policy.decode.policy import AdmissionName, DecodePolicy, PastFuturePolicy
from lengthwise_policy.objectives import Objectives
from lengthwise_policy.placement.policy import PlacementPolicy
from lengthwise_simulator.cluster.journey import Journey
from lengthwise_simulator.cluster.simulation import SimulatedRun, Simulation
from lengthwise_simulator.cluster.spec import ClusterPolicies, ClusterSpec, WorkerGroup
from lengthwise_simulator.cost.gpus import find_gpu
from lengthwise_simulator.cost.roofline import RooflineCosts
from lengthwise_simulator.workload.planned import ArrivingRequest, single_request
from simulation.disciplines import QWEN_32B

LLAMA_7B: Final = replace(
    QWEN_32B, model_type="llama", context_length=16_384, vocab_size=32_000, num_layers=32,
    hidden_size=4096, intermediate_size=11_008, num_heads=32, num_kv_heads=32,
    windows=(None,) * 32, qkv_bias=False,
)  # fmt: skip
KV_TOKENS: Final = 120_000
COSTS: Final = RooflineCosts(LLAMA_7B, find_gpu("A100"))
TTFT_SECONDS: Final = 10.0
GAP_SECONDS: Final = 1.5

Span = tuple[int, int]
MIXES: Final[Mapping[str, tuple[Span, Span, int]]] = {
    "32-4096 in, 2048-4096 out": ((32, 4096), (2048, 4096), 4096),
    "3000-5000 in, 3000-5000 out": ((3000, 5000), (3000, 5000), 5000),
    "2048-4096 in, 32-4096 out": ((2048, 4096), (32, 4096), 4096),
}
"""Uniform lengths, and the limit that requests name."""

ARMS: Final[Mapping[str, tuple[AdmissionName, float]]] = {
    "worst_case": ("worst_case", 0.0),
    "free_now, 1 % left": ("free_now", 0.01),
    "past_future, reserve 3 %": ("past_future", 0.03),
    "past_future, reserve 5 % (default)": ("past_future", 0.05),
}
CALLERS: Final = (20, 30, 40)
REQUESTS: Final = 280
WARM: Final = 110
"""That end before anything is counted: predictions begin with worst cases until 100 have."""


def closed_loop(mix: tuple[Span, Span, int], callers: int) -> list[ArrivingRequest]:
    """Each caller sends its next request when the last has ended."""
    (least_in, most_in), (least_out, most_out), limit = mix
    draw = Random(0)
    first: list[ArrivingRequest | None] = [None] * callers
    for key in range(REQUESTS):
        request = single_request(
            0.0, draw.randint(least_in, most_in), draw.randint(least_out, most_out), key=key + 1
        )
        caller = key % callers
        first[caller] = replace(request, max_new_tokens=limit, follow_up=first[caller])
    return [each for each in first if each is not None]


def cluster(admission: AdmissionName, reserve: float) -> ClusterSpec:
    group = WorkerGroup(
        role="decode",
        count=1,
        costs=COSTS,
        kv_tokens=KV_TOKENS,
        kv_bytes_per_token=COSTS.kv_bytes_per_token,
        link_bytes_per_second=COSTS.link_bytes_per_second,
    )
    objectives = Objectives(
        ttft_short_seconds=TTFT_SECONDS, ttft_long_seconds=TTFT_SECONDS, tpot_seconds=GAP_SECONDS
    )
    policies = ClusterPolicies(
        placement=PlacementPolicy(objectives=objectives),
        decode=DecodePolicy(admission=admission, past_future=PastFuturePolicy(reserve=reserve)),
        prefix_caching=False,
    )
    return ClusterSpec(groups=(group,), policies=policies)


def counted(run: SimulatedRun) -> Sequence[Journey]:
    """That ended while all callers had more to ask for, the first left out."""
    ended = sorted(run.journeys, key=lambda each: each.ended_at)
    whole = next(at for at, each in enumerate(ended) if each.request.follow_up is None)
    return ended[WARM:whole]


def is_in_time(journey: Journey) -> bool:
    gap = max(journey.paused_seconds, journey.tpot_seconds)
    return journey.ttft_seconds <= TTFT_SECONDS and gap <= GAP_SECONDS


def rows_of_mix(name: str) -> Iterator[dict[str, object]]:
    """Of one of MIXES."""
    worst = 0.0
    for arm, (admission, reserve) in ARMS.items():
        goodput, evicted = 0.0, 0.0
        for callers in CALLERS:
            requests = closed_loop(MIXES[name], callers)
            run = Simulation(cluster(admission, reserve), requests).run()
            journeys = counted(run)
            seconds = journeys[-1].ended_at - journeys[0].ended_at
            tokens = sum(each.generated for each in journeys[1:] if is_in_time(each))
            goodput = max(goodput, tokens / seconds)
            evicted = sum(each.preemptions for each in journeys) / len(journeys)
        if admission == "worst_case":
            worst = goodput
        over = goodput / worst if worst else inf
        is_theirs = admission == "past_future"
        measures = {
            f"evictions per request, {CALLERS[-1]} callers": (evicted, 0 if is_theirs else ""),
            "goodput, tokens/s": (goodput, ""),
            "goodput over worst_case": (over, "up to 2-3" if is_theirs else ""),
        }
        for measure, (simulated, published) in measures.items():
            yield {
                "setting": f"Past-Future, Llama-2-7B, A100, {name}",
                "arm": arm,
                "shape": "one worker",
                "measure": measure,
                "published": published,
                "simulated": round(simulated, 3),
            }

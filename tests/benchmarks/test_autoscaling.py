"""The scaler in a closed loop: simulated workers whose speed answers to what it decides."""

from itertools import pairwise

import pytest
from scaling.arms import Lengthwise
from scaling.autoscaling import play
from scaling.loop import Outcome, simulate
from scaling.plant import Plant
from scaling.traffic import bursts, chat, code, phases, poisson, ramp, read_trace, step
from scaling.workers import Request
from traces import AZURE_CONVERSATIONS

from lengthwise_policy.scaling.policy import ScalingPolicy
from lengthwise_policy.scaling.state import Pool

SEED = 3


def scaler() -> Lengthwise:
    return Lengthwise(ScalingPolicy())


def turns(outcome: Outcome, pool: str) -> int:
    """How often a pool went from growing to shrinking or back."""
    sizes = [replicas[pool] for _, replicas in outcome.replicas_at]
    moves = [after - before for before, after in pairwise(sizes) if after != before]
    return sum(one * other < 0 for one, other in pairwise(moves))


def in_time(requests: list[Request], begin: float, end: float) -> float:
    some = [request.is_in_time for request in requests if begin <= request.at < end]
    return sum(some) / len(some)


def run(
    requests: list[Request], seconds: float, pools: list[Pool], replicas: dict[str, int]
) -> tuple[Plant, Outcome]:
    plant = Plant(pools, replicas)
    return plant, simulate(plant, scaler(), requests, seconds)


def two_pools(min_replicas: int = 1) -> list[Pool]:
    return [
        Pool(name="prefill", role="prefill", min_replicas=min_replicas, max_replicas=12),
        Pool(name="decode", role="decode", min_replicas=min_replicas, max_replicas=12),
    ]


def test_a_step_is_answered_and_taken_back_without_swinging() -> None:
    requests = poisson(step(1.5, 6.0, 200, 700), 6.0, 1300, chat, SEED)
    _, outcome = run(requests, 1300, two_pools(), {"prefill": 2, "decode": 1})
    assert in_time(requests, 0, 200) > 0.95
    assert in_time(requests, 400, 700) > 0.95  # 60 s to start pods, and the backlog of that time
    assert in_time(requests, 800, 1300) > 0.95
    assert turns(outcome, "prefill") <= 2
    assert turns(outcome, "decode") <= 2
    last = outcome.replicas_at[-1][1]
    assert last["prefill"] <= 2
    assert last["decode"] <= 2


@pytest.mark.slow
def test_a_ramp_is_followed_up_and_down() -> None:
    requests = poisson(ramp(1, 7, 1500), 7, 1500, chat, SEED)
    _, outcome = run(requests, 1500, two_pools(), {"prefill": 2, "decode": 1})
    assert outcome.in_time > 0.95
    assert outcome.worker_seconds / 1620 < 0.85 * outcome.peak_workers
    assert turns(outcome, "prefill") <= 2


@pytest.mark.slow
def test_bursts_do_not_make_pods_come_and_go() -> None:
    requests = bursts(2.5, 13, 1500, code, SEED)
    _, outcome = run(requests, 1500, two_pools(), {"prefill": 2, "decode": 1})
    assert turns(outcome, "prefill") <= 3
    assert turns(outcome, "decode") <= 3


@pytest.mark.slow
def test_flips_serve_changing_work_better_with_fewer_workers() -> None:
    requests = poisson(lambda _: 4.0, 4, 1500, phases(300), SEED)
    flexible = play(scaler(), requests, 1500, flexible=True)
    rigid = play(scaler(), requests, 1500)
    assert flexible.flips > 0
    assert flexible.in_time >= rigid.in_time
    assert flexible.worker_seconds < rigid.worker_seconds


@pytest.mark.slow
def test_a_steady_load_flips_nothing_and_settles() -> None:
    requests = poisson(lambda _: 4.0, 4, 1500, chat, SEED)
    outcome = play(scaler(), requests, 1500, flexible=True)
    assert outcome.flips <= 1
    late = [replicas for at, replicas in outcome.replicas_at if 900 < at < 1500]
    spread = {name: {replicas[name] for replicas in late} for name in late[0]}
    assert all(max(sizes) - min(sizes) <= 1 for sizes in spread.values())


def test_silence_ends_in_no_workers_at_all_and_the_next_request_brings_them_back() -> None:
    requests = poisson(step(0.0, 2.0, 0, 100), 2.0, 100, chat, SEED)
    late = Request(at=1200.0, prompt_tokens=500, output_tokens=20, length="long")
    plant, outcome = run(
        [*requests, late], 1300, two_pools(min_replicas=0), {"prefill": 1, "decode": 1}
    )
    before = next(replicas for at, replicas in outcome.replicas_at if at > 1150)
    assert before == {"prefill": 0, "decode": 0}
    assert late.done_at < 1200 + 150
    assert plant.replicas["prefill"] >= 1


def test_nodes_that_are_full_neither_freeze_nor_pile_up() -> None:
    pools = [
        Pool(name="near", role="prefill", max_replicas=8),
        Pool(name="far", role="prefill", min_replicas=0, max_replicas=8),
        Pool(name="decode", role="decode", max_replicas=8),
    ]
    requests = poisson(step(1.0, 6.0, 100, 600), 6.0, 1300, chat, SEED)
    plant = Plant(pools, {"near": 1, "far": 0, "decode": 2})
    plant.schedulable["near"] = 2
    outcome = simulate(plant, scaler(), requests, 1300)
    assert in_time(requests, 350, 600) > 0.95
    assert max(replicas["near"] for _, replicas in outcome.replicas_at) <= 8
    assert plant.replicas["near"] + plant.replicas["far"] <= 2


@pytest.mark.slow
def test_a_real_trace_is_served_with_fewer_workers_than_its_peak_needs() -> None:
    requests = read_trace(AZURE_CONVERSATIONS)
    outcome = play(scaler(), requests, requests[-1].at)
    assert outcome.in_time > 0.97
    assert outcome.worker_seconds / requests[-1].at < 0.8 * outcome.peak_workers

"""The scaler in a closed loop: simulated clusters whose speed answers to what it decides."""

from itertools import pairwise
from random import Random

import pytest
from scaling.arms import lengthwise
from scaling.release import ScaledPlay, play, two_pools
from scaling.traffic import bursts, code, poisson, step

from lengthwise_policy.scaling.state import Pool
from lengthwise_simulator.workload.planned import single_request

SEED = 3

pytestmark = pytest.mark.slow


def brief(draw: Random, at: float) -> tuple[int, int]:
    """Prompts are what costs."""
    return round(draw.uniform(600, 1200)), 8


def turns(done: ScaledPlay, pool: str) -> int:
    """How often a pool went from growing to shrinking or back."""
    sizes = [replicas[pool] for _, replicas in done.scaled.replicas_at]
    moves = [after - before for before, after in pairwise(sizes) if after != before]
    return sum(one * other < 0 for one, other in pairwise(moves))


def test_a_step_is_answered_and_taken_back_without_swinging() -> None:
    requests = poisson(step(1.5, 6.0, 200, 500), 6.0, 900, brief, SEED)
    done = play(lengthwise(), requests, replicas=(2, 1))
    assert done.in_time_of(0, 200) > 0.95
    assert done.in_time_of(400, 500) > 0.95  # 60 s to start pods, and the backlog of that time
    assert done.in_time_of(600, 900) > 0.95
    assert turns(done, "prefill") <= 2
    assert turns(done, "decode") <= 2


def test_bursts_do_not_make_pods_come_and_go() -> None:
    done = play(lengthwise(), bursts(2.5, 13, 600, code, SEED), replicas=(2, 1))
    assert turns(done, "prefill") <= 3
    assert turns(done, "decode") <= 3


def test_silence_ends_in_no_workers_at_all_and_the_next_request_brings_them_back() -> None:
    requests = poisson(lambda _: 2.0, 2.0, 50, brief, SEED)
    late = single_request(1200.0, 500, 20, key=len(requests) + 1)
    pools = two_pools(least=0)
    done = play(lengthwise(), [*requests, late], pools=pools, replicas=(1, 1))
    before = next(replicas for at, replicas in done.scaled.replicas_at if at > 1150)
    assert before == {"prefill": 0, "decode": 0}
    last = done.scaled.run.journeys[-1]
    assert last.ending == "done"
    assert last.ended_at < 1200 + 150


def test_nodes_that_are_full_neither_freeze_nor_pile_up() -> None:
    pools = [
        Pool(name="near", role="prefill", max_replicas=8),
        Pool(name="far", role="prefill", min_replicas=0, max_replicas=8),
        Pool(name="decode", role="decode", max_replicas=8),
    ]
    requests = poisson(step(1.0, 6.0, 100, 400), 6.0, 800, brief, SEED)
    done = play(lengthwise(), requests, pools=pools, replicas=(1, 0, 2), schedulable={"near": 2})
    assert done.in_time_of(300, 400) > 0.95
    assert max(replicas["near"] for _, replicas in done.scaled.replicas_at) <= 8

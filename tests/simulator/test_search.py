"""Which rate a deployment stands, and which deployment to choose: against brute force and
arithmetic."""

from dataclasses import replace
from itertools import pairwise
from random import Random

import pytest
from simulator.clusters import random_requests
from simulator.test_costs import LLAMA_70B

from lengthwise_policy.objectives import Objectives
from lengthwise_policy.placement.policy import PlacementPolicy
from lengthwise_simulator.cluster.simulation import Simulation
from lengthwise_simulator.cluster.spec import ClusterPolicies
from lengthwise_simulator.cost.gpus import find_gpu
from lengthwise_simulator.errors import SimulationError
from lengthwise_simulator.results import RunSummary, percentile
from lengthwise_simulator.search.goodput import highest_rate
from lengthwise_simulator.search.plan import gpus_needed, plan
from lengthwise_simulator.search.shape import DeploymentShape, ModelOnGpus
from lengthwise_simulator.workload.arrivals import (
    diurnal,
    gamma,
    poisson,
    ramp,
    steps,
    varying,
)
from lengthwise_simulator.workload.planned import ArrivingRequest, single_request

SMALL = replace(
    LLAMA_70B, num_layers=4, hidden_size=1024, intermediate_size=4096, context_length=8192
)
MODEL = ModelOnGpus(spec=SMALL, gpu=find_gpu("L4"), gpu_name="L4")
STRICT = ClusterPolicies(
    placement=PlacementPolicy(
        objectives=Objectives(ttft_short_seconds=0.03, ttft_long_seconds=0.06, tpot_seconds=0.006)
    )
)


def workload(rate: float) -> list[ArrivingRequest]:
    draw = Random(1)
    times = poisson(rate, draw)
    return [single_request(next(times), 800, 20, key=key + 1) for key in range(60)]


def summary_at(rate: float, limit: float) -> RunSummary:
    one = RunSummary.of(
        Simulation(
            MODEL.cluster(SHAPE, ClusterPolicies(), 0), [single_request(0.0, 100, 2, key=1)]
        ).run()
    )
    whole = replace(one.classes[-1], attainment=1.0 if rate <= limit else 0.5)
    return replace(one, classes=(whole,))


SHAPE = DeploymentShape(prefill=1, prefill_ranks=1, decode=1, decode_ranks=1)


@pytest.mark.parametrize("limit", [0.5, 3.0, 7.7, 100.0])
@pytest.mark.parametrize("guess", [1.0, 8.0])
def test_the_highest_rate_is_found_from_any_guess(limit: float, guess: float) -> None:
    stood = highest_rate(
        lambda rate: summary_at(rate, limit), guess=guess, attainment=0.9, precision=0.02
    )
    assert 0.97 * limit <= stood.rate <= limit
    assert stood.summary is not None
    assert stood.failed is not None
    assert stood.runs < 20


def test_what_stands_no_rate_has_none() -> None:
    stood = highest_rate(
        lambda rate: summary_at(rate, 0.0), guess=1.0, attainment=0.9, precision=0.1
    )
    assert (stood.rate, stood.summary) == (0.0, None)


def test_a_run_that_has_failed_already_is_not_simulated_to_its_end() -> None:
    cluster = MODEL.cluster(SHAPE, STRICT, 0)
    whole = Simulation(cluster, random_requests(200, rate=400)).run()
    stopped = Simulation(cluster, random_requests(200, rate=400)).run(10)
    assert stopped.num_events < whole.num_events * 0.7
    assert RunSummary.of(stopped).attainment < 0.9
    assert RunSummary.of(whole).attainment < 0.9


@pytest.mark.slow
def test_a_plan_is_the_best_of_what_was_simulated() -> None:
    found = plan(MODEL, 3, workload, STRICT, precision=0.2)
    assert found[0].per_gpu == max(each.per_gpu for each in found) > 0
    assert any(each.shape.is_aggregated for each in found)
    assert all(each.shape.gpus <= 3 for each in found)
    best = found[0]
    more = gpus_needed(best, 2.5 * best.stood.rate)
    assert more.gpus == 3 * best.shape.gpus
    # It does stand its rate.
    cluster = MODEL.cluster(best.shape, STRICT, 0)
    again = RunSummary.of(Simulation(cluster, workload(best.stood.rate)).run())
    assert again.attainment >= 0.9


def test_a_model_that_does_not_fit_is_refused_with_its_size() -> None:
    large = ModelOnGpus(spec=LLAMA_70B, gpu=find_gpu("L4"), gpu_name="L4")
    with pytest.raises(SimulationError, match="its weights have 141 GB, of 4 L4 96 GB"):
        plan(large, 4, workload, STRICT)
    with pytest.raises(SimulationError, match="does not fit"):
        large.cluster(SHAPE, STRICT, 0)


def rate_of(times: list[float], begin: float, end: float) -> float:
    return sum(begin <= at < end for at in times) / (end - begin)


def test_arrivals_have_the_rate_and_variation_that_was_asked_for() -> None:
    for variation in (0.0, 1.0, 4.0):
        source = gamma(10.0, variation, Random(3))
        times = [next(source) for _ in range(20_000)]
        gaps = [after - before for before, after in pairwise(times)]
        mean = sum(gaps) / len(gaps)
        spread = (sum((gap - mean) ** 2 for gap in gaps) / len(gaps)) ** 0.5
        assert mean == pytest.approx(0.1, rel=0.1)
        assert spread / mean == pytest.approx(variation, rel=0.15, abs=1e-6)


def test_rates_that_change_are_followed() -> None:
    source = varying(ramp(0.0, 100.0, 100.0), 100.0, Random(1))
    times = [next(source) for _ in range(9000)]
    assert rate_of(times, 45, 55) == pytest.approx(50, rel=0.15)
    assert rate_of(times, 110, 130) == pytest.approx(100, rel=0.1)
    source = varying(steps((20.0, 80.0), 10.0), 80.0, Random(1))
    times = [next(source) for _ in range(4000)]
    assert rate_of(times, 20, 30) == pytest.approx(20, rel=0.3)
    assert rate_of(times, 30, 40) == pytest.approx(80, rel=0.2)
    wave = diurnal(1.0, 9.0, 24.0)
    assert [round(wave(at), 6) for at in (0, 6, 12, 24)] == [1.0, 5.0, 9.0, 1.0]


@pytest.mark.parametrize("rate", [0.0, -1.0, float("inf"), float("nan")])
def test_a_rate_that_cannot_be_is_refused(rate: float) -> None:
    with pytest.raises(SimulationError, match="rate: got"):
        next(poisson(rate, Random(0)))


def test_percentiles_lie_between_the_nearest_ranks() -> None:
    assert percentile([1.0, 2.0, 3.0, 4.0], 50) == 2.5
    assert percentile([7.0], 99) == 7.0
    assert percentile([], 50) != percentile([], 50)

"""The same settings with Azure's conversations instead of their mean, in bursts."""

from random import Random
from typing import Final

from traces import AZURE_CONVERSATIONS

from lengthwise_simulator.cluster.simulation import Simulation
from lengthwise_simulator.results import RunSummary
from lengthwise_simulator.search.goodput import highest_rate
from lengthwise_simulator.search.plan import plan
from lengthwise_simulator.search.shape import ModelOnGpus
from lengthwise_simulator.workload.arrivals import gamma
from lengthwise_simulator.workload.planned import ArrivingRequest
from lengthwise_simulator.workload.requests import at_times
from lengthwise_simulator.workload.traces import read_trace
from simulation.plans_steady import ATTAINMENT, LEAST, SteadyState, policies_for
from simulation.static_plan import PlanSetting, StaticPlan

VARIATION: Final = 2.0
TRIED: Final = 2  # disaggregated shapes, beside all aggregated ones
PRECISION: Final = 0.08
SEARCHED_SECONDS: Final = 30.0  # of arrivals
SECONDS: Final = 60.0


def real_row(setting: PlanSetting, static: StaticPlan, model: ModelOnGpus) -> dict[str, object]:
    """`setting` has the trace's mean lengths; rates are shares of what its plan promises."""
    policies = policies_for(setting)
    rows = read_trace(AZURE_CONVERSATIONS)
    promised = static.best[static.winner]
    cluster = model.cluster(promised.shape, policies, 0)

    def arrivals(rate: float, seconds: float = SEARCHED_SECONDS) -> list[ArrivingRequest]:
        times = gamma(rate, VARIATION, Random(0))
        return at_times(rows, times, max(LEAST, round(rate * seconds)), Random(1))

    def run(rate: float) -> RunSummary:
        requests = arrivals(rate)
        misses = int((1 - ATTAINMENT) * len(requests))
        return RunSummary.of(Simulation(cluster, requests).run(misses))

    regular = SteadyState(setting=setting, model=model).requests(promised.rate, SECONDS)
    fixed = RunSummary.of(Simulation(cluster, regular).run())
    real = RunSummary.of(Simulation(cluster, arrivals(promised.rate, SECONDS)).run())
    stood = highest_rate(run, guess=promised.rate, attainment=ATTAINMENT, precision=PRECISION)
    best = plan(
        model, setting.gpus, arrivals, policies,
        attainment=ATTAINMENT, precision=PRECISION, simulated=TRIED,
    )[0]  # fmt: skip
    whole = real.classes[-1]
    return {
        "setting": str(setting),
        "its_shape": str(promised.shape),
        "in_time_fixed": round(fixed.attainment, 3),
        "in_time_real": round(real.attainment, 3),
        "ttft_p90_of_objective": round(whole.ttft_seconds[1] / setting.ttft_seconds, 2),
        "tpot_p90_of_objective": round(whole.tpot_seconds[1] / setting.tpot_seconds, 2),
        "its_shape_stands": round(stood.rate / promised.rate, 3),
        "plan_shape": str(best.shape),
        "plan_stands": round(best.per_gpu / promised.per_gpu, 3),
        "plan_breaks_first": best.limit,
    }

"""Steady states: requests of one length at regular intervals, as aiconfigurator plans for."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Final

from lengthwise_policy.objectives import Objectives
from lengthwise_policy.placement.policy import PlacementPolicy
from lengthwise_simulator.cluster.simulation import Simulation
from lengthwise_simulator.cluster.spec import ClusterPolicies, ClusterSpec
from lengthwise_simulator.cost.profile import Chunk, CostProfile
from lengthwise_simulator.results import RunSummary
from lengthwise_simulator.search.goodput import highest_rate
from lengthwise_simulator.search.plan import likely_shapes
from lengthwise_simulator.search.shape import DeploymentShape, ModelOnGpus
from lengthwise_simulator.workload.arrivals import gamma
from lengthwise_simulator.workload.planned import ArrivingRequest, single_request
from simulation.static_plan import PlanSetting, StaticPlan, kind_of

SECONDS: Final = 30.0  # of arrivals; a request takes about ten
LEAST: Final = 120
TRIED: Final = 1  # shapes of each kind that look best by arithmetic, beside its own
ATTAINMENT: Final = 0.9
PRECISION: Final = 0.05
CORRECTIONS: Final = {"prefill": 1.1, "decode": 1.08}
"""Its own, of the steps of separate workers; it corrects aggregated ones by nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CorrectedCosts:
    costs: CostProfile
    factor: float

    def step_seconds(self, chunks: Sequence[Chunk], requests: int, context: int) -> float:
        return self.factor * self.costs.step_seconds(chunks, requests, context)


@dataclass(frozen=True, slots=True, kw_only=True)
class SteadyState:
    """Requests of a setting's lengths; `variation` of the gaps between them: 0 is regular."""

    setting: PlanSetting
    model: ModelOnGpus
    variation: float = 0.0
    is_corrected: bool = True

    def requests(self, rate: float, seconds: float = SECONDS) -> list[ArrivingRequest]:
        times = gamma(rate, self.variation, Random(0))
        prompt, output = self.setting.prompt, self.setting.output
        number = max(LEAST, round(seconds * rate))
        return [single_request(next(times), prompt, output, key=key + 1) for key in range(number)]

    def per_gpu(self, shape: DeploymentShape, guess: float) -> float:
        """Requests a second that the shape stands. Beside prefill workers, decode workers compute
        no prompts, as aiconfigurator presumes."""
        policies = policies_for(self.setting, local_prefill=shape.is_aggregated)
        cluster = self.model.cluster(shape, policies, 0)
        if self.is_corrected and not shape.is_aggregated:
            cluster = corrected(cluster)

        def run(rate: float) -> RunSummary:
            requests = self.requests(rate)
            misses = int((1 - ATTAINMENT) * len(requests))
            return RunSummary.of(Simulation(cluster, requests).run(misses))

        stood = highest_rate(run, guess=guess, attainment=ATTAINMENT, precision=PRECISION)
        return stood.rate / shape.gpus


def policies_for(setting: PlanSetting, *, local_prefill: bool = True) -> ClusterPolicies:
    """No prompt is like another here, so that caches would only take time."""
    ttft = setting.ttft_seconds
    objectives = Objectives(
        ttft_short_seconds=ttft, ttft_long_seconds=ttft, tpot_seconds=setting.tpot_seconds
    )
    placement = PlacementPolicy(objectives=objectives, local_prefill=local_prefill)
    return ClusterPolicies(placement=placement, prefix_caching=False)


def corrected(cluster: ClusterSpec) -> ClusterSpec:
    groups = [
        replace(group, costs=CorrectedCosts(costs=group.costs, factor=CORRECTIONS[group.role]))
        for group in cluster.groups
    ]
    return replace(cluster, groups=tuple(groups))


def steady_row(setting: PlanSetting, plan: StaticPlan, model: ModelOnGpus) -> dict[str, object]:
    """Shares of the requests/s per GPU that it promises of its best shape of each kind."""
    regular = SteadyState(setting=setting, model=model)
    sample = regular.requests(1.0)
    objectives = policies_for(setting).objectives
    likely = likely_shapes(model, setting.gpus, sample, objectives, TRIED)
    likely.sort(key=lambda each: -each[1] / each[0].gpus)
    best: dict[str, tuple[float, DeploymentShape]] = {}
    for kind, theirs in plan.best.items():
        shapes = dict([each for each in likely if kind_of(each[0]) == kind][:TRIED])
        shapes[theirs.shape] = theirs.rate
        stood = [(regular.per_gpu(shape, guess), shape) for shape, guess in shapes.items()]
        best[kind] = max(stood, key=lambda each: each[0])
    ours = max(best, key=lambda kind: best[kind][0])
    rate, shape = best[ours]
    promised = plan.best[plan.winner].per_gpu
    poisson = replace(regular, variation=1.0).per_gpu(shape, rate * shape.gpus)
    plain = replace(regular, is_corrected=False).per_gpu(shape, rate * shape.gpus)
    return {
        "setting": str(setting),
        "lengths": f"{setting.prompt}/{setting.output}",
        "its_winner": plan.winner,
        "its_margin": _margin([each.per_gpu for each in plan.best.values()]),
        "our_winner": ours,
        "our_margin": _margin([stood for stood, _ in best.values()]),
        **{
            kind: round(best[kind][0] / plan.best[kind].per_gpu, 3) if kind in best else ""
            for kind in ("aggregated", "disaggregated")
        },
        "best": round(rate / promised, 3),
        "best_poisson": round(poisson / promised, 3),
        "best_uncorrected": round(plain / promised, 3),
        "its_shape": str(plan.best[plan.winner].shape),
        "our_shape": str(shape),
    }


def _margin(rates: Sequence[float]) -> object:
    """Of the better kind over the other."""
    return round(max(rates) / min(rates) - 1, 3) if len(rates) == 2 and min(rates) else ""

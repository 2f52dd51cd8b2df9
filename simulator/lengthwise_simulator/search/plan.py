"""The deployment with the highest goodput per GPU for a model, a kind of GPU and a workload, as
DistServe searches for it: every degree of tensor parallelism, every ratio of prefill to decode, and
aggregated serving beside them. What looks best by arithmetic is simulated, with the policies that
serve; what is simulated decides."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import ceil
from statistics import mean

from lengthwise_policy.objectives import Objectives
from lengthwise_simulator.cluster.simulation import Simulation
from lengthwise_simulator.cluster.spec import ClusterPolicies
from lengthwise_simulator.errors import SimulationError
from lengthwise_simulator.results import RunSummary
from lengthwise_simulator.search.goodput import StoodRate, highest_rate
from lengthwise_simulator.search.shape import DeploymentShape, ModelOnGpus
from lengthwise_simulator.workload.planned import ArrivingRequest, turns

WorkloadAt = Callable[[float], Sequence[ArrivingRequest]]
"""Requests at so many a second."""

SIMULATED = 6
"""Of the disaggregated shapes, so many that look best; aggregated ones are all simulated."""

BUSY = 0.8
"""Share of their time that prefill workers may compute before queues grow, for the first guess."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedShape:
    shape: DeploymentShape
    stood: StoodRate

    @property
    def per_gpu(self) -> float:
        """Requests a second."""
        return self.stood.rate / self.shape.gpus

    @property
    def limit(self) -> str:
        """What breaks first above the rate that it stands."""
        failed = self.stood.failed
        if failed is None:
            return ""
        whole = failed.classes[-1]
        if whole.answered < whole.requests:
            return "requests are refused"
        ttft, tpot = failed.attained
        return "time to first token" if ttft <= tpot else "time per output token"


def plan(
    model: ModelOnGpus,
    gpus: int,
    workload: WorkloadAt,
    policies: ClusterPolicies,
    *,
    attainment: float = 0.9,
    precision: float = 0.05,
    simulated: int = SIMULATED,
    seed: int = 0,
    on_planned: Callable[[PlannedShape], None] = lambda planned: None,
) -> list[PlannedShape]:
    """The shapes simulated, best first. Errors: SimulationError where no shape fits."""
    likely = likely_shapes(model, gpus, workload(1.0), policies.objectives, simulated)
    planned = []
    for shape, guess in likely:
        cluster = model.cluster(shape, policies, seed)

        def run(rate: float) -> RunSummary:
            requests = workload(rate)
            misses = int((1 - attainment) * sum(1 for each in requests for _ in turns(each)))
            return RunSummary.of(Simulation(cluster, requests).run(misses))  # noqa: B023

        stood = highest_rate(run, guess=guess, attainment=attainment, precision=precision)
        planned.append(PlannedShape(shape=shape, stood=stood))
        on_planned(planned[-1])
    return sorted(planned, key=lambda each: -each.per_gpu)


def likely_shapes(
    model: ModelOnGpus,
    gpus: int,
    sample: Sequence[ArrivingRequest],
    objectives: Objectives,
    simulated: int = SIMULATED,
) -> list[tuple[DeploymentShape, float]]:
    """Aggregated shapes, and so many disaggregated ones that look best, with the requests a second
    that arithmetic gives them. Errors: SimulationError where no shape fits."""
    if gpus < 1:
        raise SimulationError(f"gpus: got {gpus}, expected at least 1")
    shapes = list(_shapes(model, gpus))
    if not shapes:
        needed = model.costs(1).weight_bytes / 1e9
        raise SimulationError(
            f"the model does not fit: its weights have {needed:.0f} GB, of {gpus} {model.gpu_name}"
            f" {gpus * model.gpu.memory_bytes / 1e9:.0f} GB are there at most 8 for a worker; plan"
            " with more or larger GPUs"
        )
    guesses = {shape: _guess(model, shape, sample, objectives) for shape in shapes}
    split = [shape for shape in shapes if not shape.is_aggregated]
    split.sort(key=lambda shape: -guesses[shape] / shape.gpus)
    chosen = split[:simulated] + [shape for shape in shapes if shape.is_aggregated]
    return [(shape, guesses[shape]) for shape in chosen]


def gpus_needed(planned: PlannedShape, rate: float) -> DeploymentShape:
    """As many copies of the shape as stand the rate."""
    return planned.shape.times(max(1, ceil(rate / planned.stood.rate)))


def _shapes(model: ModelOnGpus, gpus: int) -> Iterator[DeploymentShape]:
    ranks = list(model.fitting_ranks(gpus))
    for decode_ranks in ranks:
        yield DeploymentShape(
            prefill=0, prefill_ranks=1, decode=gpus // decode_ranks, decode_ranks=decode_ranks
        )
        for prefill_ranks in ranks:
            for prefill in range(1, (gpus - decode_ranks) // prefill_ranks + 1):
                decode = (gpus - prefill * prefill_ranks) // decode_ranks
                yield DeploymentShape(
                    prefill=prefill,
                    prefill_ranks=prefill_ranks,
                    decode=decode,
                    decode_ranks=decode_ranks,
                )


def _guess(
    model: ModelOnGpus,
    shape: DeploymentShape,
    sample: Sequence[ArrivingRequest],
    objectives: Objectives,
) -> float:
    """Requests a second by arithmetic: without queues, bursts and caches."""
    prompt = int(mean(request.prompt_tokens for request in sample))
    output = mean(request.output_tokens for request in sample)
    prefill_seconds = _prompt_seconds(model, shape.prefill_ranks, prompt)
    step, batch = _batch(model, shape.decode_ranks, int(prompt + output / 2), objectives)
    decode_seconds = output * step / batch
    if shape.is_aggregated:
        seconds = _prompt_seconds(model, shape.decode_ranks, prompt) + decode_seconds
        return BUSY * shape.decode / seconds
    return min(BUSY * shape.prefill / prefill_seconds, shape.decode / decode_seconds)


def _prompt_seconds(model: ModelOnGpus, ranks: int, prompt: int) -> float:
    return model.step_costs(ranks).step_seconds([(prompt, 0)], 0, 0)


def _batch(
    model: ModelOnGpus, ranks: int, context: int, objectives: Objectives
) -> tuple[float, int]:
    """The largest batch within objective and memory, and what its step takes."""
    costs = model.step_costs(ranks)
    batch = 1
    while batch < 256 and 2 * batch * context <= model.costs(ranks).kv_tokens:
        if costs.step_seconds([], 2 * batch, 2 * batch * context) > objectives.tpot_seconds:
            break
        batch *= 2
    return costs.step_seconds([], batch, batch * context), batch

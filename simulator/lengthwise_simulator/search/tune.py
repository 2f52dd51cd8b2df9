"""Settings by simulation: one knob after the other, each tried against the best so far on the same
workloads, and taken only where the gain is larger than its spread over them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import sqrt
from statistics import mean, stdev
from typing import Any, Final

from lengthwise_simulator.cluster.spec import ClusterPolicies
from lengthwise_simulator.results import RunSummary


@dataclass(frozen=True, slots=True, kw_only=True)
class TunedKnob:
    """A number of a policy, and what it may be."""

    role: str  # whose policy has it
    name: str
    choices: tuple[float, ...]

    def get(self, policies: ClusterPolicies) -> float:
        return float(getattr(getattr(policies, self.role), self.name))

    def set(self, policies: ClusterPolicies, value: float) -> ClusterPolicies:
        """Errors: ValueError where the policy cannot have it beside the others."""
        policy = getattr(policies, self.role)
        number: Any = type(getattr(policy, self.name))(value)
        changed = replace(policy, **{self.name: number})
        return replace(policies, **{self.role: changed})


KNOBS: Final = (
    TunedKnob(role="prefill", name="chunk_tokens", choices=(256, 512, 1024, 2048, 4096)),
    TunedKnob(role="prefill", name="max_age_seconds", choices=(0.1, 0.25, 0.5, 1.0, 2.0)),
    TunedKnob(role="prefill", name="long_share", choices=(0.1, 0.2, 0.3, 0.5)),
    TunedKnob(role="prefill", name="chunk_seconds", choices=(0.05, 0.1, 0.2, 0.4)),
    TunedKnob(role="prefill", name="max_wait_seconds", choices=(0.0, 0.004, 0.008, 0.016)),
    TunedKnob(role="decode", name="step_tokens", choices=(512, 1024, 2048, 4096)),
)
"""Those with the largest effect first."""

LEAST_GAIN: Final = 0.002
"""Of the share in time: less is not worth another setting."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TunedChoice:
    """One value that was tried, beside the best before it."""

    knob: TunedKnob
    value: float
    gain: float  # of the share of requests in time, on average over the seeds
    spread: float  # twice its standard error
    is_taken: bool


def tune(
    policies: ClusterPolicies,
    run: Callable[[ClusterPolicies, int], RunSummary],
    seeds: Sequence[int],
    knobs: Sequence[TunedKnob] = KNOBS,
) -> Iterator[tuple[TunedChoice, ClusterPolicies]]:
    """`run`: with these policies, on the workload of a seed. Yields what was tried, each with the
    best policies so far."""
    scores = [run(policies, seed).attainment for seed in seeds]
    for knob in knobs:
        tried: dict[float, tuple[ClusterPolicies, list[float]]] = {}
        for value in knob.choices:
            if value == knob.get(policies):
                continue
            try:
                changed = knob.set(policies, value)
            except ValueError:
                continue  # not beside the other settings
            tried[value] = changed, [run(changed, seed).attainment for seed in seeds]
        best = _best(tried, scores)
        for value, (_, found) in tried.items():
            gain, spread = _gain(found, scores)
            choice = TunedChoice(
                knob=knob, value=value, gain=gain, spread=spread, is_taken=value == best
            )
            yield choice, tried[best][0] if best is not None else policies
        if best is not None:
            policies, scores = tried[best]


def _best(
    tried: Mapping[float, tuple[ClusterPolicies, list[float]]], scores: Sequence[float]
) -> float | None:
    gains = {value: _gain(found, scores) for value, (_, found) in tried.items()}
    sure = {
        value: gain for value, (gain, spread) in gains.items() if gain > max(spread, LEAST_GAIN)
    }
    return max(sure, key=lambda value: sure[value]) if sure else None


def _gain(found: Sequence[float], scores: Sequence[float]) -> tuple[float, float]:
    """Of pairs on the same workloads: mean difference, and twice its standard error."""
    pairs = [after - before for after, before in zip(found, scores, strict=True)]
    spread = 2 * stdev(pairs) / sqrt(len(pairs)) if len(pairs) > 1 else 0.0
    return mean(pairs), spread

"""What came of a run, as numbers: by length class and in all."""

import csv
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from math import nan
from pathlib import Path

from lengthwise_policy.length_class import LENGTH_CLASSES
from lengthwise_policy.objectives import Objectives
from lengthwise_simulator.cluster.journey import Journey
from lengthwise_simulator.cluster.simulation import SimulatedRun

PERCENTS = (50, 90, 99)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassResult:
    """Of one length class, or of "all". Seconds; nan where no request was answered."""

    name: str
    requests: int
    answered: int
    ttft_seconds: tuple[float, ...]  # at PERCENTS
    tpot_seconds: tuple[float, ...]
    attainment: float  # share of the requests that met both objectives

    @classmethod
    def of(cls, name: str, journeys: Sequence[Journey], objectives: Objectives) -> "ClassResult":
        answered = [each for each in journeys if each.ending == "done"]
        ttfts = sorted(each.ttft_seconds for each in answered)
        tpots = sorted(each.tpot_seconds for each in answered if each.generated > 1)
        return cls(
            name=name,
            requests=len(journeys),
            answered=len(answered),
            ttft_seconds=tuple(percentile(ttfts, percent) for percent in PERCENTS),
            tpot_seconds=tuple(percentile(tpots, percent) for percent in PERCENTS),
            attainment=sum(each.meets(objectives) for each in journeys) / len(journeys),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSummary:
    """Of a whole run."""

    gpus: int
    seconds: float  # from the first arrival to the last end
    arrived_per_second: float
    goodput: float  # requests a second that met both objectives
    output_tokens_per_second: float
    computed_share: float  # of prompt tokens; the others were found in caches
    prefill_busy: float  # share of the workers' time in steps; nan without such workers
    decode_busy: float
    preemptions: int
    attained: tuple[float, float]  # shares that met the objective of TTFT, and of TPOT
    classes: tuple[ClassResult, ...]

    @classmethod
    def of(cls, run: SimulatedRun) -> "RunSummary":
        journeys = run.journeys
        begin = min(each.arrived_at for each in journeys)
        last = max(each.arrived_at for each in journeys)
        seconds = run.seconds - begin
        objectives = run.cluster.policies.objectives
        tokens = sum(each.generated for each in journeys)
        met = sum(each.meets(objectives) for each in journeys)
        prompts = sum(each.request.prompt_tokens for each in journeys if each.ending == "done")
        computed = sum(each.computed_tokens for each in journeys if each.ending == "done")
        return cls(
            gpus=run.cluster.gpus,
            seconds=seconds,
            arrived_per_second=(len(journeys) - 1) / (last - begin) if last > begin else nan,
            goodput=met / seconds if seconds else nan,
            output_tokens_per_second=tokens / seconds if seconds else nan,
            computed_share=computed / prompts if prompts else nan,
            prefill_busy=_busy(run, "prefill", seconds),
            decode_busy=_busy(run, "decode", seconds),
            preemptions=sum(each.preemptions for each in journeys),
            attained=_attained(journeys, objectives),
            classes=tuple(_classes(journeys, objectives)),
        )

    @property
    def attainment(self) -> float:
        """Of all requests."""
        return self.classes[-1].attainment

    def as_json(self) -> dict[str, object]:
        """With the percentiles' names."""
        return {**asdict(self), "percents": PERCENTS}


def _attained(journeys: Sequence[Journey], objectives: Objectives) -> tuple[float, float]:
    done = [each for each in journeys if each.ending == "done"]
    ttft = sum(each.ttft_seconds <= objectives.ttft_seconds(each.length) for each in done)
    tpot = sum(each.tpot_seconds <= objectives.tpot_seconds for each in done)
    return ttft / len(journeys), tpot / len(journeys)


def _classes(journeys: Sequence[Journey], objectives: Objectives) -> Iterator[ClassResult]:
    for name in LENGTH_CLASSES:
        part = [each for each in journeys if each.length == name]
        if part:
            yield ClassResult.of(name, part, objectives)
    yield ClassResult.of("all", journeys, objectives)


def percentile(ordered: Sequence[float], percent: float) -> float:
    """Between the two nearest ranks; nan without values."""
    if not ordered:
        return nan
    place = (len(ordered) - 1) * percent / 100
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def _busy(run: SimulatedRun, role: str, seconds: float) -> float:
    workers = [worker for worker in run.workers if worker.role == role]
    if not workers or not seconds:
        return nan
    return sum(worker.busy_seconds for worker in workers) / (seconds * len(workers))


FIELDS = (
    "number", "arrived_at", "prompt_tokens", "computed_tokens", "output_tokens", "length",
    "rule", "prefill", "decode", "attempts", "preemptions", "ttft_seconds", "tpot_seconds",
    "total_seconds", "ending", "reason",
)  # fmt: skip


def write_csv(journeys: Sequence[Journey], path: Path) -> None:
    """A row for each request. Errors: OSError."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(FIELDS)
        for each in journeys:
            writer.writerow(
                (
                    each.number, round(each.arrived_at, 6), each.request.prompt_tokens,
                    each.computed_tokens, each.generated, each.length, each.rule,
                    each.prefill or "", each.decode or "", each.num_attempts, each.preemptions,
                    round(each.ttft_seconds, 6), round(each.tpot_seconds, 6),
                    round(each.ended_at - each.arrived_at, 6), each.ending, each.reason,
                )
            )  # fmt: skip

"""What came of a benchmark: a row per request, and the numbers that summarise them."""

import csv
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Literal, Self

from lengthwise_cli.errors import CommandError
from lengthwise_policy.objectives import Objectives
from lengthwise_simulator.results import FIELDS as SIMULATED_FIELDS
from lengthwise_simulator.results import PERCENTS

LengthName = Literal["short", "long"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestResult:
    """One request as its client saw it. Times are in seconds."""

    due_at: float
    """After the run's beginning; the rest counts from here, so that lateness of any kind counts."""
    sent_late: float
    """How much later than due the client sent it: its own slowness, or its limit of requests."""
    length_class: LengthName
    prompt_tokens: int
    cached_tokens: int
    output_tokens: int
    ttft: float
    """Time to first token; 0 where there is none."""
    tpot: float
    """Time per output token after the first; 0 where there is only one."""
    total: float
    retries: int
    error: str
    """Empty, or what went wrong."""

    def meets(self, objectives: Objectives) -> bool:
        limit = objectives.ttft_seconds(self.length_class)
        return not self.error and self.ttft <= limit and self.tpot <= objectives.tpot_seconds


@dataclass(frozen=True, slots=True)
class Run:
    """All requests of a run, at least one."""

    results: tuple[RequestResult, ...]
    is_simulated: bool = False

    @property
    def answered(self) -> tuple[RequestResult, ...]:
        return tuple(result for result in self.results if not result.error)

    @property
    def seconds(self) -> float:
        """From the first arrival to the last end."""
        begin = min(result.due_at for result in self.results)
        return max(result.due_at + result.total for result in self.results) - begin or math.nan

    @property
    def output_tokens_per_second(self) -> float:
        return sum(result.output_tokens for result in self.answered) / self.seconds

    def goodput(self, objectives: Objectives) -> float:
        """Requests a second that met every objective."""
        return sum(result.meets(objectives) for result in self.results) / self.seconds

    def of_class(self, name: str) -> "Run | None":
        """None where the class has no request. "all": the run itself."""
        found = tuple(each for each in self.results if name in ("all", each.length_class))
        return Run(found) if found else None

    def write(self, path: Path) -> None:
        """As CSV. Errors: OSError."""
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, [field.name for field in fields(RequestResult)])
            writer.writeheader()
            for result in self.results:
                rounded = {
                    name: round(value, 6) if isinstance(value, float) else value
                    for name, value in asdict(result).items()
                }
                writer.writerow(rounded)

    @classmethod
    def read(cls, path: Path) -> Self:
        """What `write` wrote, or a simulation. Errors: CommandError, OSError."""
        measured = {field.name for field in fields(RequestResult)}
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            names = set(reader.fieldnames or ())
            if names not in (measured, set(SIMULATED_FIELDS)):
                raise CommandError(
                    f"{path}: got columns {', '.join(sorted(names))[:200] or 'none'}, expected a"
                    " file that --csv of bench, replay or simulate wrote"
                )
            read = _result if names == measured else _simulated
            try:
                results = tuple(read(row) for row in reader)
            except (ValueError, TypeError, KeyError, csv.Error) as error:
                raise CommandError(f"{path}, line {reader.line_num}: {error}") from error
        if not results:
            raise CommandError(f"{path}: holds no request")
        return cls(results, is_simulated=read is _simulated)

    def as_json(self, objectives: Objectives) -> dict[str, object]:
        """As a simulation's summary has it; seconds."""
        parts = [(name, self.of_class(name)) for name in ("short", "long", "all")]
        return {
            "seconds": self.seconds,
            "goodput": self.goodput(objectives),
            "output_tokens_per_second": self.output_tokens_per_second,
            "percents": PERCENTS,
            "classes": [
                part._class_json(name, objectives) for name, part in parts if part is not None
            ],
        }

    def _class_json(self, name: str, objectives: Objectives) -> dict[str, object]:
        answered = self.answered
        return {
            "name": name,
            "requests": len(self.results),
            "answered": len(answered),
            "ttft_seconds": [percentile(ttfts(answered), percent) for percent in PERCENTS],
            "tpot_seconds": [percentile(tpots(answered), percent) for percent in PERCENTS],
            "attainment": sum(each.meets(objectives) for each in self.results) / len(self.results),
        }


def percentile(values: Iterable[float], percent: int) -> float:
    """Interpolated between the two nearest ranks; not a number without values."""
    ordered = sorted(values)
    if len(ordered) < 2:
        return ordered[0] if ordered else math.nan
    return statistics.quantiles(ordered, n=100, method="inclusive")[percent - 1]


def ttfts(results: Sequence[RequestResult]) -> list[float]:
    return [result.ttft for result in results]


def tpots(results: Sequence[RequestResult]) -> list[float]:
    """Of those that have one."""
    return [result.tpot for result in results if result.output_tokens > 1]


def _length_class(name: str, text: str) -> LengthName:
    if text not in ("short", "long"):
        raise ValueError(f"{name}: got {text!r}, expected short or long")
    return "short" if text == "short" else "long"


def _simulated(row: dict[str, str]) -> RequestResult:
    """Of a request of a simulation."""
    prompt, is_done = int(row["prompt_tokens"]), row["ending"] == "done"
    return RequestResult(
        due_at=float(row["arrived_at"]),
        sent_late=0.0,
        length_class=_length_class("length", row["length"]),
        prompt_tokens=prompt,
        cached_tokens=max(prompt - int(row["computed_tokens"]), 0),
        output_tokens=int(row["output_tokens"]),
        ttft=float(row["ttft_seconds"]) if is_done else 0.0,
        tpot=float(row["tpot_seconds"]) if is_done else 0.0,
        total=float(row["total_seconds"]),
        retries=max(int(row["attempts"]) - 1, 0),
        error="" if is_done else row["reason"] or row["ending"],
    )


def _result(row: dict[str, str]) -> RequestResult:
    return RequestResult(
        due_at=float(row["due_at"]),
        sent_late=float(row["sent_late"]),
        length_class=_length_class("length_class", row["length_class"]),
        prompt_tokens=int(row["prompt_tokens"]),
        cached_tokens=int(row["cached_tokens"]),
        output_tokens=int(row["output_tokens"]),
        ttft=float(row["ttft"]),
        tpot=float(row["tpot"]),
        total=float(row["total"]),
        retries=int(row["retries"]),
        error=row["error"],
    )

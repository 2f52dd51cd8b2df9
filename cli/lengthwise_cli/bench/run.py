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
        """What `write` wrote. Errors: CommandError, OSError."""
        readers = {field.name: field.type for field in fields(RequestResult)}
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            if set(reader.fieldnames or ()) != readers.keys():
                raise CommandError(f"{path}: is no file that --csv wrote")
            try:
                results = tuple(_result(row) for row in reader)
            except (ValueError, TypeError, KeyError, csv.Error) as error:
                raise CommandError(f"{path}, line {reader.line_num}: {error}") from error
        if not results:
            raise CommandError(f"{path}: holds no request")
        return cls(results)


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


def _result(row: dict[str, str]) -> RequestResult:
    if row["length_class"] not in ("short", "long"):
        raise ValueError(f"length_class: got {row['length_class']!r}, expected short or long")
    return RequestResult(
        due_at=float(row["due_at"]),
        sent_late=float(row["sent_late"]),
        length_class="short" if row["length_class"] == "short" else "long",
        prompt_tokens=int(row["prompt_tokens"]),
        cached_tokens=int(row["cached_tokens"]),
        output_tokens=int(row["output_tokens"]),
        ttft=float(row["ttft"]),
        tpot=float(row["tpot"]),
        total=float(row["total"]),
        retries=int(row["retries"]),
        error=row["error"],
    )

"""What a benchmark asks for and when: equal arguments give equal requests."""

import csv
import gzip
import math
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Self, TextIO

from lengthwise_cli.errors import CommandError
from lengthwise_simulator.workload.text import Text

MAX_REQUESTS = 100_000
DEFAULT_RATE = 5.0
_LENGTHS = re.compile(r"(\d+)(?:-(\d+))?/(\d+)(?:x(\d+))?")
_COLUMNS = {
    "at": ("arrived_at", "TIMESTAMP"),
    "prompt": ("prompt_tokens", "ContextTokens"),
    "output": ("output_tokens", "GeneratedTokens"),
}
"""Our names, and those of the traces that Azure has published."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedRequest:
    due_at: float
    """Seconds after the beginning; of a follow-up: not before it is due after the reply."""
    prompt_tokens: int
    output_tokens: int
    text: Text = ()
    """Equal parts of texts are equal tokens; of none, each token is drawn for itself."""
    think_seconds: float = 0.0
    """Of a follow-up: after the reply to the request before."""
    follow_up: "PlannedRequest | None" = None

    def turns(self) -> Iterator["PlannedRequest"]:
        """Of the conversation that begins with it."""
        turn: PlannedRequest | None = self
        while turn is not None:
            yield turn
            turn = turn.follow_up


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptLengths:
    """A kind of request: uniform between two lengths, and how often beside others."""

    least: int
    most: int
    output_tokens: int
    weight: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """PROMPT/OUTPUT, FROM-TO/OUTPUT, either with xWEIGHT. Errors: CommandError."""
        match = _LENGTHS.fullmatch(text.strip())
        if match is None:
            raise CommandError(
                f"--lengths: got {text!r}, expected PROMPT/OUTPUT tokens such as 128/32 or"
                " 64-512/32x9 (nine times as often)"
            )
        least, most, output, weight = (int(part) if part else None for part in match.groups())
        lengths = cls(
            least=least or 0, most=most or least or 0, output_tokens=output or 0,
            weight=1 if weight is None else weight,
        )  # fmt: skip
        if not (1 <= lengths.least <= lengths.most and lengths.output_tokens and lengths.weight):
            raise CommandError(f"--lengths: got {text!r}, expected rising numbers of at least 1")
        return lengths

    def draw(self, source: random.Random, due_at: float) -> PlannedRequest:
        return PlannedRequest(
            due_at=due_at,
            prompt_tokens=source.randint(self.least, self.most),
            output_tokens=self.output_tokens,
        )


def plan_requests(
    lengths: Sequence[str],
    trace: Path | None,
    *,
    rate: float | None,
    num_requests: int,
    seed: int,
) -> list[PlannedRequest]:
    """`rate` None: as the trace says, or 5 a second. Errors: CommandError, OSError."""
    if rate is not None and not 0 < rate < math.inf:
        raise CommandError(f"--rate: got {rate:g}, expected requests a second above 0")
    if trace is not None:
        return read_trace(trace, rate=rate, num_requests=num_requests, seed=seed)
    kinds = [PromptLengths.parse(text) for text in lengths]
    rate = DEFAULT_RATE if rate is None else rate
    return synthetic(kinds, rate=rate, num_requests=num_requests, seed=seed)


def poisson_times(rate: float, source: random.Random) -> Iterator[float]:
    """Without end; the first request is due at once. `rate`: a second."""
    at = 0.0
    while True:
        yield at
        at += source.expovariate(rate)


def synthetic(
    kinds: list[PromptLengths], *, rate: float, num_requests: int, seed: int
) -> list[PlannedRequest]:
    source = random.Random(seed)
    weights = [kind.weight for kind in kinds]
    times = islice(poisson_times(rate, source), num_requests)
    return [source.choices(kinds, weights)[0].draw(source, at) for at in times]


def read_trace(
    path: Path, *, rate: float | None, num_requests: int, seed: int
) -> list[PlannedRequest]:
    """The first rows of a CSV file, gzipped or not, that has prompt and output lengths. They arrive
    as the file says, or, with `rate`, as a Poisson process.

    Errors: CommandError, OSError.
    """
    times = poisson_times(rate, random.Random(seed)) if rate is not None else None
    requests: list[PlannedRequest] = []
    with _open(path) as file:
        reader = csv.DictReader(file)
        columns = {
            key: next((name for name in names if name in (reader.fieldnames or ())), None)
            for key, names in _COLUMNS.items()
        }
        needed = ["prompt", "output"] if times is not None else ["prompt", "output", "at"]
        for key in needed:
            if columns[key] is None:
                remedy = "; --rate makes do without times" if key == "at" else ""
                names = " or ".join(_COLUMNS[key])
                raise CommandError(f"{path}: expected a column {names}{remedy}")
        try:
            for row in islice(reader, num_requests):
                at = next(times) if times is not None else _seconds(row[columns["at"] or ""])
                requests.append(
                    PlannedRequest(
                        due_at=at,
                        prompt_tokens=max(1, int(row[columns["prompt"] or ""])),
                        output_tokens=max(1, int(row[columns["output"] or ""])),
                    )
                )
        except (ValueError, TypeError, csv.Error) as error:
            raise CommandError(f"{path}, line {reader.line_num}: {error}") from error
    if not requests:
        raise CommandError(f"{path}: holds no request")
    first = min(request.due_at for request in requests)
    return [replace(request, due_at=request.due_at - first) for request in requests]


def _open(path: Path) -> TextIO:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8", newline="")
    return path.open(encoding="utf-8", newline="")


def _seconds(text: str) -> float:
    """Of a number, or a date and time. Errors: ValueError."""
    try:
        return float(text)
    except ValueError:
        # Azure's have seven digits of a second, one more than Python reads.
        return datetime.fromisoformat(re.sub(r"(\.\d{6})\d+", r"\1", text)).timestamp()

"""What an event on the cluster cost the requests around it: a row of a table."""

import csv
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from cluster.cluster_load import Answer, Load

TITLES = (
    f"{'event':<34}{'seconds':>8}{'requests':>9}{'failed':>7}{'retried':>8}"
    f"{'first p50':>10}{'first max':>10}{'total p50':>10}{'total max':>10}{'silence':>8}"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class CostRow:
    """Of the requests that were on their way during an event, or came right after it."""

    event: str
    event_seconds: float
    requests: int
    failed: int
    retried: int  # answered by another worker than they began with
    first_p50: float  # seconds to the first token
    first_max: float
    total_p50: float
    total_max: float
    longest_silence: float  # seconds between two chunks, or before the first

    @property
    def line(self) -> str:
        counts = f"{self.requests:>9}{self.failed:>7}{self.retried:>8}"
        times = (self.first_p50, self.first_max, self.total_p50, self.total_max)
        seconds = "".join(f"{each:>10.2f}" for each in times)
        event = f"{self.event:<34}{self.event_seconds:>8.1f}"
        return f"{event}{counts}{seconds}{self.longest_silence:>8.2f}"


UnderLoad = Callable[[], AbstractContextManager[Load]]

CostSince = Callable[[str, float], None]


def row_of(test: str, event_seconds: float, answers: Sequence[Answer]) -> CostRow:
    """`test`: the test's name says what happened."""
    event = test.removeprefix("test_").replace("_", " ").replace("[", " · ").replace("]", "")
    firsts = sorted(answer.first for answer in answers if answer.first is not None)
    totals = sorted(answer.total for answer in answers)
    return CostRow(
        event=event,
        event_seconds=round(event_seconds, 1),
        requests=len(answers),
        failed=sum(bool(answer.error) for answer in answers),
        retried=sum(answer.retries > 0 for answer in answers),
        first_p50=firsts[len(firsts) // 2],
        first_max=firsts[-1],
        total_p50=totals[len(totals) // 2],
        total_max=totals[-1],
        longest_silence=max(answer.gap for answer in answers),
    )


def write_csv(path: Path, rows: Sequence[CostRow]) -> None:
    """As `python -m rows cluster_events PATH` takes them."""
    table = [
        {
            "event": row.event,
            "event_s": row.event_seconds,
            "requests": row.requests,
            "failed": row.failed,
            "retried": row.retried,
            "first_token_p50_ms": round(1000 * row.first_p50),
            "first_token_max_ms": round(1000 * row.first_max),
            "total_p50_ms": round(1000 * row.total_p50),
            "total_max_ms": round(1000 * row.total_max),
            "longest_silence_ms": round(1000 * row.longest_silence),
        }
        for row in rows
    ]
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(table[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(table)

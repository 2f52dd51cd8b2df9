"""A grid of runs: rates x policies x shapes. Each point is a run of its own, in any order and
process; what has been written once is not run again."""

import csv
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, fields
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from lengthwise_simulator.errors import SimulationError
from lengthwise_simulator.results import RunSummary

MAX_POINTS = 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepPoint:
    """`workload` names all else that the run depends on: other points have another name."""

    workload: str
    rate: float  # requests a second
    discipline: str
    strategy: str
    prefill: int  # workers; 0: aggregated serving
    decode: int
    seed: int

    @property
    def key(self) -> tuple[str, ...]:
        """As a row of the file begins."""
        return tuple(
            f"{value:g}" if isinstance(value, float) else str(value)
            for value in (getattr(self, field.name) for field in fields(self))
        )


POINT_COLUMNS = tuple(field.name for field in fields(SweepPoint))
MEASURES = (
    "gpus", "in_time", "goodput", "goodput_per_gpu", "ttft_short_p50", "ttft_short_p99",
    "ttft_long_p50", "ttft_long_p99", "tpot_p50", "tpot_p99", "prefill_busy", "decode_busy",
)  # fmt: skip
"""Of all requests where no class is named; seconds. Empty where there are none."""

RunPoint = Callable[[SweepPoint], RunSummary]
"""To be called in other processes: a function, or a dataclass with `__call__`."""


def measures(summary: RunSummary) -> tuple[float, ...]:
    """In the order of MEASURES."""
    classes = {each.name: each for each in summary.classes}
    ttfts = [
        classes[name].ttft_seconds[index] if name in classes else float("nan")
        for name in ("short", "long")
        for index in (0, 2)
    ]
    whole = classes["all"]
    return (
        summary.gpus, summary.attainment, summary.goodput, summary.goodput / summary.gpus, *ttfts,
        whole.tpot_seconds[0], whole.tpot_seconds[2], summary.prefill_busy, summary.decode_busy,
    )  # fmt: skip


class SweepFile:
    """A CSV with a row for each point that has been run; each is on disk before the next ends."""

    def __init__(self, path: Path) -> None:
        """Errors: SimulationError where the file is another's; OSError."""
        self._path = path
        self._done: set[tuple[str, ...]] = set()
        header = [*POINT_COLUMNS, *MEASURES]
        if path.exists() and path.stat().st_size:
            with path.open(encoding="utf-8", newline="") as file:
                rows = csv.reader(file)
                found = next(rows, [])
                if found != header:
                    raise SimulationError(
                        f"{path}, line 1: got the columns {', '.join(found)}, expected those of a"
                        f" sweep: {', '.join(header)}; name another file"
                    )
                # A row that was cut off when a sweep ended is run, and written, again.
                self._done = {
                    tuple(row[: len(POINT_COLUMNS)]) for row in rows if len(row) == len(header)
                }
        else:
            self._write(header)

    def lacking(self, points: Sequence[SweepPoint]) -> list[SweepPoint]:
        return [point for point in points if point.key not in self._done]

    def add(self, point: SweepPoint, summary: RunSummary) -> None:
        cells = ["" if each != each else f"{each:.6g}" for each in measures(summary)]
        self._write([*point.key, *cells])
        self._done.add(point.key)

    def _write(self, cells: Sequence[str]) -> None:
        with self._path.open("a+b") as file:
            is_cut = file.tell() and not _ends_line(file)
        with self._path.open("a", encoding="utf-8", newline="") as file:
            if is_cut:
                file.write("\n")
            csv.writer(file, lineterminator="\n").writerow(cells)


def sweep(
    points: Sequence[SweepPoint], run: RunPoint, file: SweepFile, processes: int
) -> Generator[SweepPoint]:
    """Runs what the file lacks; yields each point once its row is written.

    Errors: SimulationError of a point, after which nothing new begins.
    """
    if len(points) > MAX_POINTS:
        raise SimulationError(f"sweep: got {len(points):,} points, expected at most {MAX_POINTS:,}")
    lacking = file.lacking(points)
    if processes == 1:
        for point in lacking:
            file.add(point, run(point))
            yield point
        return
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        try:
            for point, summary in zip(lacking, pool.map(run, lacking), strict=True):
                file.add(point, summary)
                yield point
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _ends_line(file: Any) -> bool:
    file.seek(-1, 2)
    return bool(file.read(1) == b"\n")

"""A sweep: its grid, its file, its progress bar."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from itertools import product
from pathlib import Path

from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn

from lengthwise_cli.errors import CommandError, check_target
from lengthwise_cli.simulate.inputs import Inputs, check_rate
from lengthwise_cli.terminal import say
from lengthwise_policy.placement.strategies import STRATEGIES
from lengthwise_simulator.cluster.simulation import Simulation
from lengthwise_simulator.results import RunSummary
from lengthwise_simulator.search.shape import DeploymentShape
from lengthwise_simulator.search.sweep import SweepFile, SweepPoint, sweep
from lengthwise_simulator.workload.traces import TraceRow


@dataclass(frozen=True, slots=True, kw_only=True)
class PointRun:
    """Runs a point, in any process."""

    inputs: Inputs
    rows: Sequence[TraceRow]
    gpus: tuple[int, int]  # of a prefill worker, of a decode worker
    requests: int

    def __call__(self, point: SweepPoint) -> RunSummary:
        inputs = replace(
            self.inputs, discipline=point.discipline, strategy=point.strategy, seed=point.seed
        )
        shape = DeploymentShape(
            prefill=point.prefill,
            prefill_ranks=self.gpus[0],
            decode=point.decode,
            decode_ranks=self.gpus[1],
        )
        cluster = inputs.model_on_gpus().cluster(shape, inputs.policies(), inputs.seed)
        requests = inputs.requests_at(self.rows, point.rate, self.requests)
        return RunSummary.of(Simulation(cluster, requests).run())

    @property
    def workload(self) -> str:
        """A short name of all that is the same for every point."""
        spec = self.inputs.model_on_gpus().spec
        fixed = replace(self.inputs, discipline="", strategy="", seed=0, rate=None)
        text = repr((spec, fixed, self.rows, self.gpus, self.requests))
        return sha256(text.encode()).hexdigest()[:12]


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepGrid:
    """Every combination is a point."""

    rates: Sequence[float]
    disciplines: Sequence[str]
    strategies: Sequence[str]
    ratios: Sequence[str]  # PREFILL:DECODE, workers
    seeds: Sequence[int]

    def points(self, workload: str) -> list[SweepPoint]:
        """Errors: CommandError."""
        shapes = [_workers(ratio) for ratio in self.ratios]
        for rate in self.rates:
            check_rate(rate)
        return [
            SweepPoint(
                workload=workload,
                rate=rate,
                discipline=discipline,
                strategy=strategy,
                prefill=prefill,
                decode=decode,
                seed=seed,
            )
            for rate, discipline, strategy, (prefill, decode), seed in product(
                self.rates, self.disciplines, self.strategies, shapes, self.seeds
            )
        ]


def run_sweep(
    inputs: Inputs,
    grid: SweepGrid,
    gpus: tuple[int, int],
    *,
    requests: int,
    path: Path,
    processes: int,
) -> None:
    """Errors: CommandError, SimulationError, OSError."""
    check_target("--out", path)
    for discipline in grid.disciplines:
        replace(inputs, discipline=discipline).policies()  # refused before anything runs
    for strategy in grid.strategies:
        if strategy not in STRATEGIES:
            known = ", ".join(STRATEGIES)
            raise CommandError(f"--strategy: got {strategy!r}, expected one of {known}")
    rows = inputs.fitting_rows(inputs.model_on_gpus().spec.context_length)
    run = PointRun(inputs=inputs, rows=rows, gpus=gpus, requests=requests)
    points = grid.points(run.workload)
    file = SweepFile(path)
    num_lacking = len(file.lacking(points))
    if num_lacking < len(points):
        say(f"{len(points) - num_lacking:,} of {len(points):,} points are in {path} already")
    columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("points", total=num_lacking)
        for _ in sweep(points, run, file, processes):
            progress.advance(task)
    say(f"{len(points):,} points are in {path}")


def _workers(ratio: str) -> tuple[int, int]:
    parts = ratio.split(":")
    if len(parts) == 2 and all(part.isascii() and part.isdigit() for part in parts):
        prefill, decode = map(int, parts)
        if decode and max(prefill, decode) <= 10_000:
            return prefill, decode
    raise CommandError(
        f"--ratio: got {ratio!r}, expected PREFILL:DECODE workers such as 2:1; 0:3 is aggregated"
    )

"""Where the results of a benchmark go."""

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import typer

from lengthwise_cli.bench import report
from lengthwise_cli.bench.json_files import write_json
from lengthwise_cli.bench.run import Run
from lengthwise_cli.errors import CommandError, check_target
from lengthwise_cli.terminal import make_console
from lengthwise_policy.objectives import Objectives

FORMATS = (".svg", ".png", ".pdf")


@dataclass(frozen=True, slots=True)
class Output:
    """Standard output, and files where they are named. Checked before anything is loaded.

    Errors: CommandError.
    """

    objectives: Objectives
    csv: Path | None
    plot: Path | None
    json: Path | None = None

    def __post_init__(self) -> None:
        for name, path in (("--csv", self.csv), ("--plot", self.plot), ("--json", self.json)):
            check_target(name, path)
        if self.plot is not None and self.plot.suffix not in FORMATS:
            expected = ", ".join(FORMATS)
            raise CommandError(f"--plot: got {self.plot}, expected a name that ends in {expected}")
        if self.plot is not None and find_spec("matplotlib") is None:
            raise CommandError('--plot needs matplotlib: pip install "lengthwise[plot]"')

    def end(self, run: Run, before: Run | None, *, is_whole: bool) -> None:
        """Raises typer.Exit for a run that was interrupted, or that nobody answered. Errors:
        OSError."""
        self._write(run, before)
        if not is_whole:
            raise typer.Exit(130)
        if not run.answered:
            raise typer.Exit(1)

    def _write(self, run: Run, before: Run | None) -> None:
        console = make_console()
        report.show(run, self.objectives, console)
        if before is not None:
            console.print()
            report.compare(before, run, self.objectives, console)
        if self.csv is not None:
            run.write(self.csv)
        if self.json is not None:
            write_json(run.as_json(self.objectives), self.json)
        if self.plot is not None:
            from lengthwise_cli.bench.plot import draw  # matplotlib takes a second, and an extra

            runs = {"requests": run}
            if before is not None:
                names = ("simulated", "live") if before.is_simulated else ("before", "now")
                runs = dict(zip(names, (before, run), strict=True))
            draw(runs, self.objectives, self.plot)

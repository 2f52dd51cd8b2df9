"""Where the results of a simulation go, and as which tables."""

import math
from collections import Counter
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from rich.console import Console
from rich.text import Text

from lengthwise_cli.bench.json_files import write_json
from lengthwise_cli.errors import CommandError, check_target
from lengthwise_cli.terminal import LATENCIES, Column, fit_encoding, fitted, harmless, make_console
from lengthwise_simulator.chrome_trace import write_chrome_trace
from lengthwise_simulator.cluster.simulation import SimulatedRun
from lengthwise_simulator.results import ClassResult, RunSummary, write_csv

FORMATS = (".svg", ".png", ".pdf")

LATENCY = (*LATENCIES, Column("in time", rank=2))


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOutput:
    """Standard output, and files where they are named. Checked before anything is simulated.

    Errors: CommandError.
    """

    csv: Path | None
    json: Path | None
    plot: Path | None
    chrome_trace: Path | None

    def __post_init__(self) -> None:
        for name in ("csv", "json", "plot", "chrome_trace"):
            check_target(f"--{name.replace('_', '-')}", getattr(self, name))
        if self.plot is not None and self.plot.suffix not in FORMATS:
            expected = ", ".join(FORMATS)
            raise CommandError(f"--plot: got {self.plot}, expected a name that ends in {expected}")
        if self.plot is not None and find_spec("matplotlib") is None:
            raise CommandError('--plot needs matplotlib: pip install "lengthwise[plot]"')

    def write(self, run: SimulatedRun, what: str) -> None:
        """Errors: OSError."""
        summary = RunSummary.of(run)
        show(run, summary, what, make_console())
        if self.csv is not None:
            write_csv(run.journeys, self.csv)
        if self.json is not None:
            write_json(summary.as_json(), self.json)
        if self.chrome_trace is not None:
            write_chrome_trace(run.journeys, self.chrome_trace)
        if self.plot is not None:
            from lengthwise_cli.simulate.plot import draw_run  # matplotlib takes a second

            draw_run(run, what, self.plot)


def show(run: SimulatedRun, summary: RunSummary, what: str, console: Console) -> None:
    def line(text: str, style: str = "") -> None:
        console.print(Text(fit_encoding(harmless(text), console.file), style))

    whole, objectives = summary.classes[-1], run.cluster.policies.objectives
    line(what)
    line(
        f"{whole.requests:,} requests in {summary.seconds:,.1f} simulated s"
        f"{_told(summary.arrived_per_second, ' ({:,.2f}/s)')}, {whole.answered:,} answered"
        f"{_told(summary.output_tokens_per_second, ', {:,.0f} output tokens/s')}; in ms:"
    )
    console.print(fitted(LATENCY, [_latencies(each) for each in summary.classes], console))
    line(
        f"goodput{_told(summary.goodput, ' {:,.2f} requests/s')}"
        f"{_told(summary.goodput / summary.gpus, ', {:,.3f} per GPU')}: TTFT within"
        f" {objectives.ttft_short_seconds:g} s (short), {objectives.ttft_long_seconds:g} s (long),"
        f" TPOT within {objectives.tpot_seconds:g} s"
    )
    shares = [("prefill", summary.prefill_busy), ("decode", summary.decode_busy)]
    busy = [f"{role} workers {share:.0%}" for role, share in shares if not math.isnan(share)]
    cached = _told(1 - summary.computed_share, "; {:.0%} of the prompt tokens cached")
    line(f"busy: {', '.join(busy) or 'nobody'}{cached}; {summary.preemptions:,} preemptions")
    rules = Counter(each.rule for each in run.journeys if each.rule)
    line(", ".join(f"{rule}: {count:,}" for rule, count in rules.most_common()))
    reasons = Counter(
        (each.ending or "", each.reason) for each in run.journeys if each.ending != "done"
    )
    for (ending, reason), count in reasons.most_common(3):
        line(f"{ending} {count:,} times: {reason}", "red")


def _latencies(result: ClassResult) -> tuple[str, ...]:
    cells = [result.name, f"{result.requests:,}"]
    for values, digits in ((result.ttft_seconds, 0), (result.tpot_seconds, 1)):
        cells += [
            "" if math.isnan(seconds) else f"{seconds * 1e3:,.{digits}f}" for seconds in values
        ]
    return (*cells, f"{result.attainment:.1%}")


def _told(value: float, text: str) -> str:
    """Nothing of what there is not."""
    return "" if math.isnan(value) else text.format(value)

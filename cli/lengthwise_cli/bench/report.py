"""A run, and two runs beside each other, as tables that fit 80 columns."""

from collections import Counter
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.text import Text

from lengthwise_cli.bench.run import Run, percentile, tpots, ttfts
from lengthwise_cli.terminal import LATENCIES, Column, fit_encoding, fitted, harmless
from lengthwise_policy.objectives import Objectives

CLASSES = ("short", "long", "all")
LATE_SECONDS = 0.05
"""Where a hundredth of the requests was sent later than this the client is too slow to measure."""

LATENCY = (*LATENCIES, Column("goodput", rank=2))


def show(run: Run, objectives: Objectives, console: Console) -> None:
    def line(text: str, style: str = "") -> None:
        console.print(Text(fit_encoding(harmless(text), console.file), style))

    answered = len(run.answered)
    rate = len(run.results) / run.seconds
    line(
        f"{len(run.results):,} requests in {run.seconds:,.1f} s ({rate:,.2f}/s), {answered:,}"
        f" answered, {run.output_tokens_per_second:,.0f} output tokens/s; in ms:"
    )
    rows = [_latencies(name, part, objectives) for name, part in _parts(run)]
    console.print(fitted(LATENCY, rows, console))
    line(
        f"goodput {run.goodput(objectives):,.2f} requests/s: TTFT within"
        f" {objectives.ttft_short_seconds:g} s (short), {objectives.ttft_long_seconds:g} s (long),"
        f" TPOT within {objectives.tpot_seconds:g} s"
    )
    errors = Counter(each.error for each in run.results if each.error)
    for error, count in errors.most_common(3):
        line(f"failed {count:,} times: {error}", "red")
    late = percentile((each.sent_late for each in run.results), 99)
    if late > LATE_SECONDS:
        line(
            f"this client sent 1 % of the requests {late:.2f} s late or later: it, or its limit"
            " of requests in flight, is part of what was measured",
            "yellow",
        )


def compare(before: Run, now: Run, objectives: Objectives, console: Console) -> None:
    rows = []
    for name, measure in _measures(objectives):
        old, new = measure(before), measure(now)
        if old == old or new == new:  # at least one is a number
            ratio = f"{new / old:.2f}" if old and old == old and new == new else ""
            rows.append((name, _number(old), _number(new), ratio))
    names = ("simulated", "live") if before.is_simulated else ("before", "now")
    columns = (Column("", is_number=False), *map(Column, names), Column("ratio"))
    console.print(fitted(columns, rows, console))


def _parts(run: Run) -> Iterator[tuple[str, Run]]:
    for name in CLASSES:
        part = run.of_class(name)
        if part is not None:
            yield name, part


def _latencies(name: str, run: Run, objectives: Objectives) -> tuple[str, ...]:
    met = sum(each.meets(objectives) for each in run.results) / len(run.results)
    cells = [name, f"{len(run.results):,}"]
    for values, digits in ((ttfts(run.answered), 0), (tpots(run.answered), 1)):
        cells += [_milliseconds(percentile(values, percent), digits) for percent in (50, 90, 99)]
    return (*cells, f"{met:.1%}")


def _measures(objectives: Objectives) -> Iterator[tuple[str, Callable[[Run], float]]]:
    """Latencies in milliseconds; not a number where a run has no such request."""

    def latency(
        values: Callable[..., list[float]], name: str, percent: int
    ) -> Callable[[Run], float]:
        def measure(run: Run) -> float:
            part = run.of_class(name)
            return percentile(values(part.answered) if part else (), percent) * 1000

        return measure

    for name in CLASSES:
        for percent in (50, 99):
            yield f"TTFT {name} p{percent}, ms", latency(ttfts, name, percent)
    for percent in (50, 99):
        yield f"TPOT p{percent}, ms", latency(tpots, "all", percent)
    yield "output tokens/s", lambda run: run.output_tokens_per_second
    yield "goodput, requests/s", lambda run: run.goodput(objectives)
    yield "failed", lambda run: float(len(run.results) - len(run.answered))


def _milliseconds(seconds: float, digits: int) -> str:
    return f"{seconds * 1000:,.{digits}f}" if seconds == seconds else ""


def _number(value: float) -> str:
    if value != value:
        return ""
    return f"{value:,.0f}" if value >= 1000 or value == int(value) else f"{value:,.2f}"

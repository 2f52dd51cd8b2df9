"""The picture of a simulated run: who waited how long, and what was under way when."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lengthwise_policy.length_class import LENGTH_CLASSES
from lengthwise_simulator.cluster.journey import Journey
from lengthwise_simulator.cluster.simulation import SimulatedRun

COLOURS = {"short": "tab:blue", "long": "tab:orange"}


def draw_run(run: SimulatedRun, what: str, path: Path) -> None:
    """In the format that the file's name ends in. Errors: OSError."""
    figure = Figure(figsize=(12.0, 4.2), layout="constrained")
    figure.suptitle(what)
    ttft, tpot, under_way = figure.subplots(1, 3)
    objectives = run.cluster.policies.objectives
    done = [each for each in run.journeys if each.ending == "done"]
    for name in LENGTH_CLASSES:
        part = [each for each in done if each.length == name]
        label, colour = f"{name} ({len(part):,})", COLOURS[name]
        _distribution(ttft, [each.ttft_seconds for each in part], label, colour)
        several = [each.tpot_seconds for each in part if each.generated > 1]
        _distribution(tpot, several, label, colour)
        ttft.axvline(objectives.ttft_seconds(name), linestyle=":", color=colour)
    tpot.axvline(objectives.tpot_seconds, linestyle=":", color="grey", label="objective")
    ttft.set_xlabel("time to first token, s")
    tpot.set_xlabel("time per output token, s")
    ttft.set_ylabel("share of answered requests")
    _timeline(under_way, run.journeys)
    for axes in (ttft, tpot, under_way):
        axes.grid(visible=True, which="both", linewidth=0.3)
        axes.legend(loc="best")
    figure.savefig(path, dpi=150)


def _distribution(axes: Axes, values: Sequence[float], label: str, colour: str) -> None:
    ordered = sorted(values)
    if not ordered:
        return
    shares = [(rank + 1) / len(ordered) for rank in range(len(ordered))]
    axes.step(ordered, shares, where="post", label=label, color=colour)
    axes.set_xscale("log")
    axes.set_ylim(0.0, 1.02)


def _timeline(axes: Axes, journeys: Sequence[Journey]) -> None:
    """Requests before their first token, and after it."""
    answered = [each for each in journeys if each.ending == "done"]
    for label, spans in (
        ("before the first token", [(each.arrived_at, each.first_token_at) for each in answered]),
        ("after it", [(each.first_token_at, each.ended_at) for each in answered]),
    ):
        changes = sorted([(begin, 1) for begin, _ in spans] + [(end, -1) for _, end in spans])
        times, counts, count = [], [], 0
        for at, change in changes:
            count += change
            times.append(at)
            counts.append(count)
        axes.step(times, counts, where="post", label=label, linewidth=0.6)
    axes.set_xlabel("simulated time, s")
    axes.set_ylabel("requests")

"""The picture of one run, or of two: which share of the requests waited how long."""

from collections.abc import Mapping
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from lengthwise_cli.bench.run import RequestResult, Run, ttfts
from lengthwise_policy.length_class import LENGTH_CLASSES
from lengthwise_policy.objectives import Objectives


def draw(runs: Mapping[str, Run], objectives: Objectives, path: Path) -> None:
    """Writes the distribution of TTFT of each length class, a line per run, in the format that the
    file's name ends in. Errors: OSError; ValueError for a format that does not exist."""
    figure = Figure(figsize=(10.0, 4.2), layout="constrained")
    for axes, name in zip(figure.subplots(1, 2, sharey=True), LENGTH_CLASSES, strict=True):
        for label, run in runs.items():
            part = run.of_class(name)
            answered: tuple[RequestResult, ...] = part.answered if part else ()
            seconds = sorted(ttfts(answered))
            shares = [(rank + 1) / len(seconds) for rank in range(len(seconds))]
            axes.step(seconds, shares, where="post", label=f"{label} ({len(seconds)} requests)")
        axes.axvline(objectives.ttft_seconds(name), linestyle=":", color="grey", label="objective")
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_ylim(0.0, 1.02)
        axes.set_title(f"{name} requests")
        axes.set_xlabel("time to first token, s")
        axes.grid(visible=True, which="both", linewidth=0.3)
        axes.legend(loc="lower right")
    figure.axes[0].set_ylabel("share of answered requests")
    figure.savefig(path)

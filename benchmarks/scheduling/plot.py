"""The picture of the scheduling benchmark: how long short and long requests wait, arm by arm."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from scheduling.result import Result

PLAY: Final = "multi_turn"


def draw(results: Sequence[Result], path: Path) -> Path:
    """Writes the distributions of TTFT in the multi-turn play, all repeats together."""
    from matplotlib.figure import Figure  # tests that draw nothing need not wait for it

    shown = [result for result in results if result.play == PLAY]
    figure = Figure(figsize=(10.0, 4.2), layout="constrained")
    for axes, length in zip(figure.subplots(1, 2, sharey=True), ("short", "long"), strict=True):
        for arm in dict.fromkeys(result.arm for result in sorted(shown, key=lambda r: r.arm)):
            seconds = sorted(
                sample.ttft_seconds
                for result in shown
                for sample in result.measured
                if result.arm == arm and sample.length == length
            )
            if not seconds:
                continue
            shares = [(rank + 1) / len(seconds) for rank in range(len(seconds))]
            axes.step(seconds, shares, where="post", label=arm)
        axes.set_xscale("log")
        axes.set_title(f"{length} requests")
        axes.set_xlabel("time to first token, s")
        axes.grid(visible=True, which="both", linewidth=0.3)
    figure.axes[0].set_ylabel("share of requests")
    figure.axes[0].legend()
    figure.savefig(path)
    return path

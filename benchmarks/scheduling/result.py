"""What one arm did in one play, as numbers.

A request belongs to the window in which it was due, so that a late answer counts against
the arm that gave it late; requests of the warm-up count nowhere.
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from cpu import CpuUse

from scheduling.player import Sample

METRICS: Final = (
    "ttft_short_p50_ms",
    "ttft_short_p99_ms",
    "ttft_long_p50_ms",
    "ttft_long_p99_ms",
    "ttft_p50_ms",
    "ttft_p99_ms",
    "tpot_p50_ms",
    "tokens_per_second",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One arm's share of one repeat of one play."""

    repeat: int
    play: str
    arm: str
    rate: float  # requests/s planned; 0: a closed loop
    window: tuple[float, float]  # seconds after the play's beginning
    cpu: CpuUse
    samples: tuple[Sample, ...]  # those of the warm-up included

    @property
    def measured(self) -> list[Sample]:
        begin, end = self.window
        return [sample for sample in self.samples if begin <= sample.due_at < end]

    @property
    def cached_share(self) -> float:
        """Of the measured prompts' tokens, those reused from a prefix cache."""
        measured = self.measured
        prompt_tokens = sum(sample.prompt_tokens for sample in measured)
        return sum(sample.cached_tokens for sample in measured) / max(1, prompt_tokens)

    def metrics(self) -> dict[str, float]:
        """Values of `METRICS`; those of a class without requests are left out.

        Errors: ValueError when the window holds no request.
        """
        measured = self.measured
        if not measured:
            raise ValueError(f"{self.play}, {self.arm}: no request in the window; lengthen it")
        found: dict[str, float] = {}
        for name, chosen in (
            ("ttft_short", [s for s in measured if s.length == "short"]),
            ("ttft_long", [s for s in measured if s.length == "long"]),
            ("ttft", measured),
        ):
            if chosen:
                seconds = [sample.ttft_seconds for sample in chosen]
                found[f"{name}_p50_ms"] = percentile(seconds, 50) * 1e3
                found[f"{name}_p99_ms"] = percentile(seconds, 99) * 1e3
        found["tpot_p50_ms"] = percentile([s.tpot_seconds for s in measured], 50) * 1e3
        begin, end = self.window
        tokens = sum(sample.tokens_between(begin, end) for sample in self.samples)
        found["tokens_per_second"] = tokens / (end - begin)
        return found

    def row(self, settings: Mapping[str, object]) -> dict[str, object]:
        """A row of the table of results; `settings` are what all have alike."""
        metrics, measured = self.metrics(), self.measured
        return {
            **settings,
            "repeat": self.repeat,
            "seed": self.repeat,
            "play": self.play,
            "arm": self.arm,
            "rate": round(self.rate, 2) or "saturated",
            "warm_up_seconds": self.window[0],
            "window_seconds": self.window[1] - self.window[0],
            "requests": len(measured),
            "long_requests": sum(sample.length == "long" for sample in measured),
            "cached_share": round(self.cached_share, 3),
            "retries": sum(sample.retries for sample in measured),
            "client_cores": round(self.cpu.client, 2),
            "cluster_cores": round(self.cpu.cluster, 2),
            "foreign_cores": round(self.cpu.foreign, 2),
            **{name: round(metrics[name], 2) if name in metrics else "" for name in METRICS},
        }

    def summary(self) -> str:
        metrics = self.metrics()
        shown = [f"{name.removesuffix('_ms')} {value:.0f}" for name, value in metrics.items()]
        cpu = f"cores {self.cpu.cluster:.2f}, client {self.cpu.client:.2f}"
        return (
            f"{len(self.measured)} requests; {', '.join(shown)};"
            f" cached {self.cached_share:.2f}; {cpu}, foreign {self.cpu.foreign:.2f}"
        )


def percentile(values: Sequence[float], percent: int) -> float:
    """Interpolated between the two nearest ranks."""
    if len(values) == 1:
        return values[0]
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]

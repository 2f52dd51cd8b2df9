"""What a process holds of its machine, counted over time, and whether that grows."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import psutil
from harness.samples import samples_of

from lengthwise_local import LocalClusterError, Process

TOLERATED: Mapping[str, float] = {"fds": 8.0, "threads": 4.0, "tasks": 8.0, "rss_mib": 24.0}
"""Growth that is no leak: connections come and go, and allocators keep what they had."""

MIN_SAMPLES = 100
"""Four minutes: in less there is no trend but that of the load."""


@dataclass(slots=True)
class Counts:
    """Samples of processes that never end, in the order of their times."""

    samples: dict[str, list[Mapping[str, float]]] = field(default_factory=dict)
    """By the process."""

    def take(self, processes: Iterable[Process]) -> None:
        for process in processes:
            # One that is frozen has no answer.
            with suppress(psutil.Error, OSError, LocalClusterError):
                counted = psutil.Process(process.pid)
                metrics = samples_of(process.metrics_address, seconds=1.0)
                sample = {
                    "fds": float(counted.num_fds()),
                    "threads": float(counted.num_threads()),
                    "tasks": metrics["lengthwise_tasks", frozenset()],
                    "rss_mib": counted.memory_info().rss / 2**20,
                }
                self.samples.setdefault(process.name, []).append(sample)

    def growths(self) -> dict[str, dict[str, float]]:
        """By process, where there are enough samples, and by what was counted."""
        return {
            name: {what: growth([sample[what] for sample in samples]) for what in TOLERATED}
            for name, samples in self.samples.items()
            if len(samples) >= MIN_SAMPLES
        }


def growth(samples: Sequence[float]) -> float:
    """How much higher its floor, the tenth percentile, is in the last third than in the second:
    faults make peaks, leaks lift what is there between them. The first third warms up."""
    third = len(samples) // 3
    before, after = samples[third : 2 * third], samples[2 * third :]
    return _floor(after) - _floor(before)


def _floor(samples: Sequence[float]) -> float:
    return statistics.quantiles(samples, n=10)[0]


def leaks(growths: Mapping[str, Mapping[str, float]]) -> list[str]:
    """What has grown by more than is tolerated, in words."""
    return [
        f"{name}: {what} +{grown:.1f}, tolerated are {TOLERATED[what]:g}"
        for name, counted in growths.items()
        for what, grown in counted.items()
        if grown > TOLERATED[what]
    ]

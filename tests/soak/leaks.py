"""What a process holds of its machine, counted over time, and whether that grows."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import psutil
from harness.samples import samples_of

from lengthwise_local import LocalClusterError, Process

TOLERATED: Mapping[str, float] = {"fds": 8.0, "threads": 4.0, "tasks": 8.0, "rss_mib": 24.0}
"""Growth over a whole soak that is no leak: requests and connections come and go, and allocators
keep what they had."""

WARM_UP = 1 / 3
"""The part of a process's samples that is left out: pools, caches and allocators fill."""

MIN_SAMPLES = 60
"""Five minutes: in less there is no trend but that of the load."""


@dataclass(slots=True)
class Counts:
    """Samples of processes that never end, in the order of their times."""

    samples: dict[str, list[tuple[float, Mapping[str, float]]]] = field(default_factory=dict)
    """By the process: seconds, and what was counted."""

    def take(self, processes: Iterable[Process], now: float) -> None:
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
                self.samples.setdefault(process.name, []).append((now, sample))

    def growths(self) -> dict[str, dict[str, float]]:
        """By process and by what was counted: how much more there is at the end than after the
        warm-up, by the trend. Empty for a process with too few samples."""
        return {
            name: {
                what: growth([(now, sample[what]) for now, sample in samples]) for what in TOLERATED
            }
            for name, samples in self.samples.items()
            if len(samples) >= MIN_SAMPLES
        }


def growth(samples: Sequence[tuple[float, float]]) -> float:
    """By the median of the slopes between all pairs of samples after the warm-up (Theil and Sen),
    which passing peaks do not move, times the seconds between the first and the last."""
    kept = samples[int(len(samples) * WARM_UP) :]
    slopes = [
        (later - earlier) / (end - begin)
        for index, (begin, earlier) in enumerate(kept)
        for end, later in kept[index + 1 :]
    ]
    return statistics.median(slopes) * (kept[-1][0] - kept[0][0])


def leaks(growths: Mapping[str, Mapping[str, float]]) -> list[str]:
    """What has grown by more than is tolerated, in words."""
    return [
        f"{name}: {what} +{grown:.1f}, tolerated are {TOLERATED[what]:g}"
        for name, counted in growths.items()
        for what, grown in counted.items()
        if grown > TOLERATED[what]
    ]

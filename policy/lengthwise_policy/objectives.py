"""What latency is wanted."""

from dataclasses import dataclass
from math import inf
from typing import ClassVar

from lengthwise_policy.length_class import LengthClass

LEAST_SECONDS = 0.001


@dataclass(frozen=True, slots=True, kw_only=True)
class Objectives:
    """Time to the first token (TTFT) by length class, and time per output token (TPOT) after it.

    One value for a release: the router places and sheds by it and counts what met it, workers
    schedule by it, the autoscaler sizes pools by it.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    ttft_short_seconds: float = 0.4  # to the first token of a short prompt; LAPS
    ttft_long_seconds: float = 2.0  # to that of a long one
    tpot_seconds: float = 0.1  # for each token after it; DistServe's for chat

    def __post_init__(self) -> None:
        for name in ("ttft_short_seconds", "ttft_long_seconds", "tpot_seconds"):
            seconds = getattr(self, name)
            if not LEAST_SECONDS <= seconds < inf:
                raise ValueError(
                    f"{name}: expected a finite number of at least {LEAST_SECONDS}, got {seconds}"
                )

    def ttft_seconds(self, length: LengthClass) -> float:
        return self.ttft_short_seconds if length == "short" else self.ttft_long_seconds

"""How fast, how carefully and how far pools are scaled."""

from dataclasses import dataclass
from typing import ClassVar

from lengthwise_policy.checks import require_at_least


@dataclass(frozen=True, slots=True, kw_only=True)
class ScalingPolicy:
    """Windows and bounds, for all pools alike."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    # Pods go only when they were needed at no time of so many seconds. Kubernetes' own default.
    scale_in_seconds: float = 300.0
    # Without any work, before the last worker of a group goes; only where min_replicas is 0.
    scale_to_zero_seconds: float = 600.0
    # For so long an operator's number of replicas stands.
    manual_hold_seconds: float = 300.0
    # Between flips in opposite directions, and how long the giving role must have had a worker to
    # spare.
    flip_seconds: float = 30.0
    # Workers that stay must carry the load with this share of them to spare: demand that wavers by
    # less never makes a pod go and come again.
    margin: float = 0.1
    # One decision adds at most so many times what a group has, or `growth_pods` where that is
    # more: a wrong number costs that much, and the right one is reached a decision later.
    growth: float = 2.0
    growth_pods: int = 4  # that one decision may always add
    # After unschedulable pods were given back, before their pool is tried again.
    unschedulable_seconds: float = 300.0

    def __post_init__(self) -> None:
        for name in (
            "scale_in_seconds",
            "scale_to_zero_seconds",
            "manual_hold_seconds",
            "flip_seconds",
            "unschedulable_seconds",
        ):
            require_at_least(name, getattr(self, name), 0.0)
        require_at_least("growth", self.growth, 1.0)
        require_at_least("growth_pods", self.growth_pods, 1)
        if not 0 <= self.margin < 1:
            raise ValueError(f"margin: expected at least 0 and below 1, got {self.margin}")

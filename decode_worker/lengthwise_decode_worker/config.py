"""Configuration of a decode worker."""

from dataclasses import dataclass, field
from typing import ClassVar

from pydantic import ConfigDict

from lengthwise_policy.checks import require_at_least
from lengthwise_policy.decode.policy import DecodePolicy
from lengthwise_runtime.config import STRICT
from lengthwise_worker.config import WorkerConfig


# No slots: a class cannot have two bases with slots.
@dataclass(frozen=True, kw_only=True)
class DecodeSettings:
    """Keys of decode workers alone: the limits of the continuous batch."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    policy: DecodePolicy = field(default_factory=DecodePolicy)
    """Which requests are admitted, and how many decode at once."""
    max_reservations_per_router: int = 2048
    """More are refused; twice what a router has in flight by default."""

    def __post_init__(self) -> None:
        require_at_least("max_reservations_per_router", self.max_reservations_per_router, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeWorkerConfig(WorkerConfig, DecodeSettings):
    """Keys of both stand side by side."""

    graph_prompt_tokens: tuple[int, ...] | None = (64, 256, 512)
    """Of the prompts that it computes itself; a step has `policy.step_tokens` at most."""

    def __post_init__(self) -> None:
        WorkerConfig.__post_init__(self)
        DecodeSettings.__post_init__(self)

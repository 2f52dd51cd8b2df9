"""Configuration of a decode worker."""

from dataclasses import dataclass, field
from typing import ClassVar

from pydantic import ConfigDict

from lengthwise_policy.decode.policy import DecodePolicy
from lengthwise_runtime.config import STRICT
from lengthwise_worker.config import WorkerConfig


# No slots: a class cannot have two bases with slots.
@dataclass(frozen=True, kw_only=True)
class DecodeSettings:
    """Keys of decode workers alone: the limits of the continuous batch."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    policy: DecodePolicy = field(default_factory=DecodePolicy)


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeWorkerConfig(WorkerConfig, DecodeSettings):
    """Keys of both stand side by side."""

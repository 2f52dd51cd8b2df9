"""What a decode worker can be told."""

from dataclasses import dataclass, field

from lengthwise_policy.decode import DecodePolicy
from lengthwise_worker.config import WorkerConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeWorkerConfig(WorkerConfig):
    """`WorkerConfig` and the limits of the continuous batch."""

    policy: DecodePolicy = field(default_factory=DecodePolicy)

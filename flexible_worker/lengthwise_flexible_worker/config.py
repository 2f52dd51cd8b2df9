"""Configuration of a flexible worker."""

from dataclasses import dataclass, field, fields
from typing import Any

from lengthwise_decode_worker.config import DecodeSettings, DecodeWorkerConfig
from lengthwise_policy.types import Role
from lengthwise_prefill_worker.config import PrefillSettings, PrefillWorkerConfig
from lengthwise_worker.config import WorkerConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class FlexibleWorkerConfig(WorkerConfig):
    """The keys of every worker, and under `prefill` and `decode` those of each role alone."""

    role: Role
    """The one that it begins with."""
    prefill: PrefillSettings = field(default_factory=PrefillSettings)
    """While it prefills."""
    decode: DecodeSettings = field(default_factory=DecodeSettings)
    """While it decodes."""

    def as_prefill(self) -> PrefillWorkerConfig:
        """Of the prefill worker that it becomes."""
        return PrefillWorkerConfig(
            **_values(self, WorkerConfig), **_values(self.prefill, PrefillSettings)
        )

    def as_decode(self) -> DecodeWorkerConfig:
        """Of the decode worker that it becomes."""
        return DecodeWorkerConfig(
            **_values(self, WorkerConfig), **_values(self.decode, DecodeSettings)
        )


def _values(config: Any, cls: Any) -> dict[str, Any]:
    """The values in `config` of the keys that `cls` has."""
    return {each.name: getattr(config, each.name) for each in fields(cls)}

"""Configuration of a prefill worker."""

from dataclasses import dataclass, field
from typing import ClassVar

from pydantic import ConfigDict

from lengthwise_policy.length_class import LengthClass
from lengthwise_policy.prefill.policy import PrefillPolicy
from lengthwise_runtime.config import STRICT
from lengthwise_worker.config import WorkerConfig


# No slots: a class cannot have two bases with slots.
@dataclass(frozen=True, kw_only=True)
class PrefillSettings:
    """Keys of prefill workers alone: the limits of scheduling and sending."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    policy: PrefillPolicy = field(default_factory=PrefillPolicy)
    """In which order prompts are computed, and how many at once."""
    length_class: LengthClass | None = None
    """Prompts meant for this worker; unset: all. Others come only where no worker is meant for
    them."""
    layerwise_tokens: int = 512
    """Prompts of which more than this is computed here are pushed layer by layer meanwhile; others
    as one packed copy. Splitwise measured the crossing at 512."""
    piece_bytes: int = 4 << 20
    """Layers are pushed together until a piece has this size. Of what bare gloo moves on two cores,
    pieces of 1 MiB reach 61 %, of 4 MiB 75 %, of 16 MiB 86 % (benchmarks/data/kv_transfer.csv)."""
    connect_seconds: float = 5.0
    """A link to a decode worker that is not up by then is given up."""

    def __post_init__(self) -> None:
        for name in ("layerwise_tokens", "piece_bytes", "connect_seconds"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefillWorkerConfig(WorkerConfig, PrefillSettings):
    """Keys of both stand side by side."""

    graph_rows: tuple[int, ...] | None = (1,)
    """It decodes nothing; the last token of a cached prompt is one row."""

    def __post_init__(self) -> None:
        WorkerConfig.__post_init__(self)
        PrefillSettings.__post_init__(self)

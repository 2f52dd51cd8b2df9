"""What the event loop and the engine thread tell each other: commands in, outcomes and one report
per step out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from lengthwise_engine.runner.sampler import SampledToken, SamplingState
from lengthwise_policy.cost.model import CostModel
from lengthwise_policy.errors import PolicyError
from lengthwise_policy.kv.prefix_cache import BlockEvents, BlockHash
from lengthwise_policy.length_class import LengthClass
from lengthwise_policy.types import PrefillBatch, RequestId
from lengthwise_prefill_worker.kv.pieces import PieceReady


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefillWork:
    """A prompt as the engine needs it."""

    request_id: RequestId
    sampling: SamplingState
    hashes: tuple[BlockHash, ...]
    arrived_at: float
    deadline_at: float
    priority: int
    returning: bool
    pushed_from: int | None
    """The KV of the tokens from here on goes to a decode worker, which has the others; None: of
    none. A multiple of the block size."""

    @property
    def num_tokens(self) -> int:
        return len(self.sampling.token_ids)


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """Cancels a request or frees a computed one."""

    request_id: RequestId


Command = PrefillWork | Release


@dataclass(frozen=True, slots=True, kw_only=True)
class Computed:
    """A prompt is complete; this is its first token."""

    request_id: RequestId
    token: SampledToken
    queue_seconds: float
    prefill_seconds: float
    num_cached_tokens: int
    length: LengthClass
    reason: str
    """Of the batch with its first chunk."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    request_id: RequestId
    error: PolicyError


@dataclass(frozen=True, slots=True, kw_only=True)
class Expired:
    request_id: RequestId


Outcome = Computed | Refused | Expired


@dataclass(slots=True, kw_only=True)
class StepReport:
    """Handed over once per step, and never touched by the engine thread again."""

    outcomes: list[Outcome] = field(default_factory=list)
    batch: PrefillBatch | None = None
    gap_seconds: float | None = None
    """Since the end of the last batch, where this one followed it at once."""
    busy_seconds: float = 0.0
    """From planning the batch to handing over what it gave."""
    tokens: Mapping[LengthClass, int] = field(default_factory=dict)
    """Of the batch, by their requests' length classes."""
    block_events: BlockEvents | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """What the status tells of the engine."""

    blocks_free: int
    blocks_cached: int
    running_requests: int
    queues: tuple[tuple[str, int, int], ...]
    prompt_tokens_total: int
    cost: CostModel | None
    """None until fitted."""
    cost_samples: int
    short_tokens: int


class Outputs(Protocol):
    """Where results go; called on the engine thread."""

    def pieces(self, pieces: Sequence[PieceReady]) -> None: ...

    def stepped(self, report: StepReport) -> None: ...

"""The values that policies take and give, shared by the router, the workers and the simulator.

The rule: frozen, comparable, free of behaviour beyond arithmetic on their own fields. Instants are
seconds of the caller's clock.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NewType

from lengthwise_policy.blocks import kv_slots
from lengthwise_policy.cost import PRIOR, CostModel
from lengthwise_policy.lengths import DEFAULT_SHORT_TOKENS

RequestId = NewType("RequestId", str)
WorkerId = NewType("WorkerId", str)

Role = Literal["prefill", "decode"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """Tokens [start, start + num_tokens) of one prompt, computed in one batch."""

    request_id: RequestId
    start: int  # a multiple of the block size
    num_tokens: int
    is_last: bool  # the prompt ends with this chunk; only then it may end inside a block


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefillBatch:
    """The chunks of one prefill step, at most one per request, in the order of the queue."""

    chunks: tuple[Chunk, ...]
    reason: str

    @property
    def num_tokens(self) -> int:
        return sum(chunk.num_tokens for chunk in self.chunks)


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeStep:
    """One decode step: requests that get one token each, and chunks of prompts computed here.

    `chunks` are local prefills, and sequences computed again after a preemption; a chunk that is
    the last of its sequence gives a token too.
    """

    request_ids: tuple[RequestId, ...]  # in the order of their commits
    chunks: tuple[Chunk, ...] = ()
    preempted: tuple[RequestId, ...] = ()  # lost their blocks while the step was planned
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerView:
    """What a router knows of one worker: its last status, and what the router itself placed there.

    Statuses lag, `outstanding_*` do not. Policies add the two. That counts a request twice once the
    status has caught up, for all workers alike; without it a burst between two statuses would go to
    one worker.
    """

    worker_id: WorkerId
    role: Role
    blocks_total: int
    blocks_free: int
    block_size: int
    running_requests: int
    queued_requests: int
    queued_tokens: int  # residual prompt tokens (prefill); KV slots waited for (decode)
    step: int  # grows while the worker works
    draining: bool  # it takes no new work
    model_fingerprint: str
    layout_fingerprint: str
    outstanding_requests: int  # placed by this router and not yet seen finished
    outstanding_tokens: int
    queued_short_tokens: int = 0  # the part of `queued_tokens` in class "short"
    outstanding_short_tokens: int = 0
    short_tokens: int = DEFAULT_SHORT_TOKENS  # the worker's boundary between the classes
    cost: CostModel = PRIOR
    is_fitted: bool = False  # whether `cost` is the worker's own
    context_tokens: int = 0  # of its running requests (decode)
    blocks_predicted: int = 0  # peak of what is admitted already (decode)
    kv_bytes_per_token: int = 0
    kv_bytes_per_second: float = 0.0  # out of this worker (prefill); 0 until measured

    @property
    def capacity_tokens(self) -> int:
        return self.blocks_total * self.block_size


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacementRequest:
    """What placement needs to know of a request."""

    request_id: RequestId
    num_tokens: int  # prompt tokens (and, when a request resumes, the tokens generated before)
    max_new_tokens: int
    excluded: frozenset[WorkerId] = (
        frozenset()
    )  # they failed this request: only if nothing else is left
    reserved_decode: WorkerId | None = None  # holds this request's reservation already: it is kept
    # Prompt tokens whose KV a worker is known to have, in whole blocks; workers with none are left
    # out.
    cached_tokens: Mapping[WorkerId, int] = field(default_factory=dict)
    priority: int = 0

    @property
    def needs_decode(self) -> bool:
        """The prefill worker samples the first token: a request for one token ends there."""
        return self.max_new_tokens > 1

    def residual_tokens(self, worker_id: WorkerId) -> int:
        """Tokens that this worker would have to compute: at least the last one, to sample."""
        return max(self.num_tokens - self.cached_tokens.get(worker_id, 0), 1)

    @property
    def kv_tokens(self) -> int:
        """KV slots that the request takes on the decode worker when it runs to its limit."""
        return kv_slots(self.num_tokens, self.max_new_tokens)


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One choice that placement had, and the seconds it predicted."""

    prefill: WorkerId | None
    decode: WorkerId | None
    residual_tokens: int
    queue_seconds: float
    prefill_seconds: float
    transfer_seconds: float  # the part that is not hidden behind the computation

    @property
    def ttft_seconds(self) -> float:
        return self.queue_seconds + self.prefill_seconds + self.transfer_seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Who computes the prompt and who generates.

    `decode` is None when one token is all; `prefill` is None when the decode worker computes the
    prompt itself.
    """

    prefill: WorkerId | None
    decode: WorkerId | None
    reason: str  # "rule: numbers"; the rules are few, they label a metric
    candidates: tuple[Candidate, ...] = ()  # the best few, best first, of rules that predict

"""The values that policies take and give, shared by the router, the workers and the simulator.

The rule: frozen, comparable, free of behaviour beyond arithmetic on their own fields. Instants are
seconds of the caller's clock.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NewType

from lengthwise_policy.cost.model import PRIOR, CostModel
from lengthwise_policy.kv.blocks import kv_slots
from lengthwise_policy.length_class import DEFAULT_SHORT_TOKENS, LengthClass

RequestId = NewType("RequestId", str)
WorkerId = NewType("WorkerId", str)

Role = Literal["prefill", "decode"]

# (model fingerprint, KV layout fingerprint): workers of one kind can exchange KV.
Kind = tuple[str, str]

PlacementRule = Literal[
    "least loaded",
    "length pools",
    "power of two",
    "predicted ttft",
    "prefix",
    "round robin",
    "local prefill",
    "no prefill worker",
]

PrefillRule = Literal["fcfs", "short_first", "alone", "window", "ahead", "aged", "share", "begun"]

StepRule = Literal["decode", "mixed", "preempt"]
"""Tokens only; chunks of prompts too; requests gave their blocks up for it."""

STEP_TOKENS = 512
"""Prompt tokens in one step of a worker, as its scheduler plans by default."""


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
    length: LengthClass | Literal["mixed"]
    shape: tuple[int, int] | None  # (requests, tokens each) of the smallest graph that covers it
    rule: PrefillRule
    reason: str  # the rule, and the numbers behind it

    @property
    def num_tokens(self) -> int:
        return sum(chunk.num_tokens for chunk in self.chunks)


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeStep:
    """One decode step: requests that get one token each, and chunks of prompts computed here.

    `chunks` are local prefills, and sequences computed again after a preemption; a chunk that is
    the last of its sequence gives a token too.
    """

    request_ids: tuple[RequestId, ...]  # most senior first
    chunks: tuple[Chunk, ...] = ()
    preempted: tuple[RequestId, ...] = ()  # lost their blocks while the step was planned
    rule: StepRule
    reason: str  # the rule, and the numbers behind it


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerView:
    """What a router knows of one worker: its last status, and what the router itself placed there.

    Statuses lag, `outstanding_*` do not: they count what the router has placed and a status does
    not show yet. Policies add the two; without the second a burst between two statuses would go to
    one worker.

    The last fields are what placement asks of every worker for every request. They follow from the
    others, and are computed once here instead of once per request and worker.
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
    outstanding_requests: int  # placed by this router, and not ended, nor in the status yet
    outstanding_tokens: int
    queued_short_tokens: int = 0  # the part of `queued_tokens` in class "short"
    outstanding_short_tokens: int = 0
    short_tokens: int = DEFAULT_SHORT_TOKENS  # the worker's boundary between the classes
    cost: CostModel = PRIOR
    is_fitted: bool = False  # whether `cost` was measured, at the worker or at its peers
    context_tokens: int = 0  # of its running requests (decode)
    blocks_predicted: int = 0  # peak of what is admitted already (decode)
    kv_bytes_per_token: int = 0
    kv_bytes_per_second: float = 0.0  # out of this worker (prefill); 0 until measured
    outstanding_local_tokens: int = 0  # of prompts placed here to be computed here (decode)
    length_class: LengthClass | None = None  # of the prompts meant for it (prefill); None: all
    kind: Kind = field(init=False, repr=False, compare=False)
    capacity_tokens: int = field(init=False, repr=False, compare=False)
    tokens_ahead: int = field(init=False, repr=False, compare=False)
    short_wait_seconds: float = field(init=False, repr=False, compare=False)
    long_wait_seconds: float = field(init=False, repr=False, compare=False)
    load_requests: int = field(init=False, repr=False, compare=False)
    room_tokens: int = field(init=False, repr=False, compare=False)
    next_step_seconds: float = field(init=False, repr=False, compare=False)
    kv_seconds_per_token: float = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        derive = object.__setattr__
        derive(self, "kind", (self.model_fingerprint, self.layout_fingerprint))
        derive(self, "capacity_tokens", self.blocks_total * self.block_size)
        ahead = self.queued_tokens + self.outstanding_tokens
        derive(self, "tokens_ahead", ahead)
        # A short prompt waits for the short ones and at most for one step of a long one, which
        # cannot be stopped; a long prompt waits for all.
        short_ahead = min(self.queued_short_tokens + self.outstanding_short_tokens, ahead)
        short_wait = short_ahead + min(ahead - short_ahead, STEP_TOKENS)
        derive(self, "short_wait_seconds", _wait_seconds(self.cost, short_wait))
        derive(self, "long_wait_seconds", _wait_seconds(self.cost, ahead))
        load = self.running_requests + self.queued_requests + self.outstanding_requests
        derive(self, "load_requests", load)
        # Blocks that nobody holds now nor is predicted to hold, less what is waited for already.
        blocks = min(self.blocks_free, self.blocks_total - self.blocks_predicted)
        derive(self, "room_tokens", blocks * self.block_size - ahead)
        step = self.cost.decode_step_seconds(load + 1, self.context_tokens + ahead)
        derive(self, "next_step_seconds", step)
        rate = self.kv_bytes_per_second
        derive(self, "kv_seconds_per_token", self.kv_bytes_per_token / rate if rate > 0 else 0.0)


def _wait_seconds(cost: CostModel, tokens: int) -> float:
    """Of a prefill worker, for queued prompts of so many tokens in all, in full steps."""
    steps = -(-tokens // STEP_TOKENS)
    per_token = cost.token_seconds + cost.attention_seconds * STEP_TOKENS
    return steps * cost.step_seconds + tokens * per_token


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
    rule: PlacementRule
    reason: str  # the rule, and the numbers behind it
    candidates: tuple[Candidate, ...] = ()  # the best few, best first, of rules that predict

    @property
    def chosen(self) -> Candidate | None:
        """What was predicted of the choice, where the rule predicts."""
        for candidate in self.candidates:
            if (candidate.prefill, candidate.decode) == (self.prefill, self.decode):
                return candidate
        return None

"""The values that policies take and give, shared by the router, the workers and the simulator.

The rule: frozen, comparable, free of behaviour beyond arithmetic on their own fields. Instants are
seconds of the caller's clock.
"""

from dataclasses import dataclass
from typing import Literal, NewType

from lengthwise_policy.blocks import kv_slots

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
    """The requests that get one token each in one decode step, in the order of their commits."""

    request_ids: tuple[RequestId, ...]


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
    queued_tokens: int
    step: int  # grows while the worker works
    draining: bool  # it takes no new work
    model_fingerprint: str
    layout_fingerprint: str
    outstanding_requests: int  # placed by this router and not yet seen finished
    outstanding_tokens: int

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

    @property
    def needs_decode(self) -> bool:
        """The prefill worker samples the first token: a request for one token ends there."""
        return self.max_new_tokens > 1

    @property
    def kv_tokens(self) -> int:
        """KV slots that the request takes on the decode worker when it runs to its limit."""
        return kv_slots(self.num_tokens, self.max_new_tokens)


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Who computes the prompt and who generates; `decode` is None when one token is all."""

    prefill: WorkerId | None
    decode: WorkerId | None
    reason: str

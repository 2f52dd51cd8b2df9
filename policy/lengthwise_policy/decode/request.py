"""One request at a decode worker, from its reservation until nothing writes to its blocks any more.

    queued ──grant──▶ filling ──commit──▶ running ──finish, release──▶ (gone)
       ▲ └──grant──▶ computing ──last chunk──▶ │         │ a step or a transfer still writes
       └───────────── preempted ───────────────┘         └──▶ draining ──▶ (gone)

A transfer fills a request from a prefill worker; one that is local, or that lost its blocks and
comes back, is computed here in chunks.

Steps may be launched before the one before has ended: what is known of a request comes from steps
that have ended, and `num_launched` and `num_awaited` are what those in flight will add to it.

Invariant: all requests of a worker are in one total order, seniority: higher priority first, then
earlier reservation. It is the order of the queue, of every step, and, from its end, of preemption.
"""

from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Literal

from lengthwise_policy.checks import require_at_least
from lengthwise_policy.kv.blocks import kv_slots
from lengthwise_policy.kv.prefix_cache import BlockHash
from lengthwise_policy.types import RequestId

GrantRule = Literal["fits", "nothing runs", "resumed"]
"""Why a request has blocks now; "resumed": it was preempted, and is computed again."""

Phase = Literal["queued", "filling", "computing", "running", "draining"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reservation:
    """Room asked for one request."""

    request_id: RequestId
    num_tokens: int  # of the prompt
    max_new_tokens: int  # the first of them is sampled where the prompt is computed
    deadline_at: float  # the reservation is a lease: from then on `expired` reports it
    hashes: Sequence[BlockHash] = ()  # of the prompt's full blocks
    local: bool = False  # computed here; otherwise the prompt arrives as KV
    returning: bool = False  # the conversation will probably go on
    priority: int = 0

    def __post_init__(self) -> None:
        require_at_least("num_tokens", self.num_tokens, 1)
        require_at_least("max_new_tokens", self.max_new_tokens, 1)

    @property
    def kv_tokens(self) -> int:
        """KV slots taken if it runs to its limit."""
        return kv_slots(self.num_tokens, self.max_new_tokens)


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """Blocks for a request of the queue."""

    request_id: RequestId
    block_ids: tuple[int, ...]  # of the tokens known, in their order
    num_cached_tokens: int  # their KV was here already: whole blocks, and not the last token
    rule: GrantRule
    reason: str  # the rule, and the numbers behind it


@dataclass(slots=True, kw_only=True, eq=False)
class DecodeRequest:
    """What the scheduler knows of one request; a `past_future.Growing`."""

    reservation: Reservation
    number: int  # counts reservations
    sequence_tokens: int  # tokens known: the prompt and all that was generated
    hashes: list[BlockHash]  # of the first full blocks of the sequence
    phase: Phase = "queued"
    num_computed: int = 0  # tokens whose KV is in the blocks; all but the newest while running
    num_launched: int = 0  # as `num_computed`, once the steps in flight have ended
    steps_in_flight: int = 0  # that write to its blocks
    block_ids: tuple[int, ...] = ()
    num_slots: int = 0  # of KV, in these blocks
    num_shared: int = 0  # of the blocks: held by others, or kept from others, when granted
    num_published: int = 0
    own_slots: int  # KV slots needed now in blocks that are not shared: what Past-Future counts
    receiving: bool = False  # only while draining: a transfer may still write
    resumed: bool = False
    returning: bool = False  # only while draining: keep its blocks longer

    # Read for every request in every step.
    request_id: RequestId = field(init=False)
    tokens_left: int = field(init=False)

    def __post_init__(self) -> None:
        self.request_id = self.reservation.request_id
        self.tokens_left = self.reservation.max_new_tokens

    @property
    def seniority(self) -> tuple[int, int]:
        """Smaller is more senior; no two requests are equal."""
        return (-self.reservation.priority, self.number)

    @property
    def num_awaited(self) -> int:
        """Tokens that the steps in flight sample of it."""
        awaited = self.num_launched + 1 - self.sequence_tokens
        return awaited if awaited > 0 else 0

    @property
    def num_own_blocks(self) -> int:
        return len(self.block_ids) - self.num_shared

    @property
    def generated(self) -> int:
        """Tokens generated; the one that ends a computation is counted from its start."""
        known = self.sequence_tokens - self.reservation.num_tokens
        return known if self.phase == "running" else known + 1

    @property
    def max_new_tokens(self) -> int:
        return self.reservation.max_new_tokens

    def granted(self, block_ids: tuple[int, ...], num_shared: int, block_size: int) -> None:
        """Holds blocks for all tokens known; those in the first `num_shared` are computed."""
        filled = not (self.reservation.local or self.resumed)
        self.phase = "filling" if filled else "computing"
        self.block_ids = block_ids
        self.num_slots = len(block_ids) * block_size
        self.num_shared = self.num_published = num_shared
        self.num_computed = self.num_launched = num_shared * block_size
        self.own_slots = self.sequence_tokens - self.num_computed

    def launched(self, num_tokens: int) -> None:
        """A step was launched that computes so many more of its tokens."""
        self.num_launched += num_tokens
        self.steps_in_flight += 1

    def advanced(self, num_computed: int) -> None:
        """All known tokens up to `num_computed` lie in the cache; after the last, one more is
        known."""
        self.num_computed = num_computed
        if num_computed > self.num_launched:
            self.num_launched = num_computed
        if num_computed == self.sequence_tokens:
            if self.phase == "running":
                self.own_slots += 1
            self.phase = "running"
            self.sequence_tokens += 1
            self.tokens_left -= 1

    def preempted(self) -> None:
        """Holds nothing any more and will be computed again."""
        self.phase = "queued"
        self.resumed = True
        self.block_ids = ()
        self.num_slots = self.num_shared = self.num_published = 0
        self.num_computed = self.num_launched = 0
        self.own_slots = self.sequence_tokens

    def shareable_hashes(self, block_size: int) -> list[BlockHash]:
        """Of blocks that it may share: one token at least is left to compute."""
        return self.hashes[: (self.sequence_tokens - 1) // block_size]


seniority = attrgetter("seniority")


class DecodeQueue:
    """Requests that wait for blocks, most senior first."""

    def __init__(self) -> None:
        self._requests: list[DecodeRequest] = []
        self.kv_tokens = 0
        """KV slots that they may take in all."""

    def __len__(self) -> int:
        return len(self._requests)

    @property
    def first(self) -> DecodeRequest | None:
        return self._requests[0] if self._requests else None

    def add(self, request: DecodeRequest) -> None:
        insort(self._requests, request, key=seniority)
        self.kv_tokens += request.reservation.kv_tokens

    def remove(self, request: DecodeRequest) -> None:
        del self._requests[bisect_left(self._requests, seniority(request), key=seniority)]
        self.kv_tokens -= request.reservation.kv_tokens

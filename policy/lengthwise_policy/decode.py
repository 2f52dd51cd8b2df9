"""What a decode worker holds and what it runs next: reservations, then continuous batching.

A reservation takes blocks for the worst case, the prompt and all that it may generate, so that a
request that runs is never thrown out again. Requests that do not fit wait, first come, first served.

    queued ──granted──▶ reserved ──commit──▶ running ──release──▶ (gone)
                          │ release(receiving=True)                  ▲
                          └──────────▶ draining ──────drained────────┘

The rules: a block is free only when nothing writes to it any more, neither the step that runs now
nor a transfer that still arrives; and nobody overtakes in the queue.
"""

from dataclasses import dataclass
from typing import ClassVar

from lengthwise_policy.blocks import BlockPool, kv_slots
from lengthwise_policy.checks import require_at_least
from lengthwise_policy.types import DecodeStep, RequestId


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodePolicy:
    """Limits of a decode worker."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    max_running: int = 256  # requests in one step; more may be committed and wait their turn
    queue_limit: int = 1024  # reservations that wait for blocks

    def __post_init__(self) -> None:
        require_at_least("max_running", self.max_running, 1)
        require_at_least("queue_limit", self.queue_limit, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reservation:
    """Room asked for one request: its prompt arrives as KV, the rest is generated here."""

    request_id: RequestId
    num_tokens: int
    max_new_tokens: int  # the first of them is sampled by the prefill worker
    deadline_at: float  # the reservation is a lease: past this it is in `expired`

    def __post_init__(self) -> None:
        require_at_least("num_tokens", self.num_tokens, 1)
        require_at_least("max_new_tokens", self.max_new_tokens, 1)

    @property
    def kv_tokens(self) -> int:
        return kv_slots(self.num_tokens, self.max_new_tokens)


class DecodeScheduler:
    """Plans one step at a time: `next_step`, run it, `emitted`, and again."""

    def __init__(self, policy: DecodePolicy, pool: BlockPool, block_size: int) -> None:
        raise NotImplementedError

    @property
    def num_queued(self) -> int:
        """Reservations that wait for blocks."""
        raise NotImplementedError

    @property
    def queued_tokens(self) -> int:
        """KV slots that the queued reservations wait for."""
        raise NotImplementedError

    @property
    def num_reserved(self) -> int:
        """Reservations granted and not committed yet."""
        raise NotImplementedError

    @property
    def num_running(self) -> int:
        """Committed requests."""
        raise NotImplementedError

    @property
    def num_draining(self) -> int:
        """Released requests whose blocks are still being written."""
        raise NotImplementedError

    def reserve(self, reservation: Reservation) -> bool:
        """True: granted, `block_ids` knows the blocks. False: queued, see `take_granted`.

        Raises QueueFull, NeverFits or DuplicateRequest (also while blocks of that id still drain).
        """
        raise NotImplementedError

    def take_granted(self) -> list[RequestId]:
        """Grants as much of the queue as fits now, in order, and returns what it granted.

        Call it after anything that frees blocks: `release`, `drained`, `emitted`.
        """
        raise NotImplementedError

    def commit(self, request_id: RequestId) -> None:
        """All KV of the prompt is here: the request joins the batch. Raises UnknownRequest unless reserved."""
        raise NotImplementedError

    def next_step(self) -> DecodeStep | None:
        """Plans one token for each running request, or for the first `max_running` of them.

        A request that has generated all it reserved for is left out and waits for its release.
        Raises RuntimeError while a step is running.
        """
        raise NotImplementedError

    def emitted(self, step: DecodeStep) -> tuple[RequestId, ...]:
        """Says that the running step has ended.

        Returns its requests without those released meanwhile, whose blocks may return to the pool
        here. Raises ValueError if `step` is not the running one.
        """
        raise NotImplementedError

    def release(self, request_id: RequestId, *, receiving: bool = False) -> bool:
        """Ends a request in any state; False when there is none of this id (any more).

        With `receiving` its blocks may still be written by a transfer: they are held until `drained`.
        If it is in the running step they are held until `emitted` as well.
        """
        raise NotImplementedError

    def drained(self, request_id: RequestId) -> bool:
        """No transfer writes to this released request any more; False when none of this id drains."""
        raise NotImplementedError

    def block_ids(self, request_id: RequestId) -> tuple[int, ...]:
        """The blocks of a reserved or running request, in the order of its tokens. Raises UnknownRequest."""
        raise NotImplementedError

    def expired(self, now: float) -> tuple[RequestId, ...]:
        """The requests, in whatever state, whose deadline has passed and that are not released yet."""
        raise NotImplementedError

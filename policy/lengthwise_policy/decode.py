"""What a decode worker holds and what it runs next: reservations, then continuous batching.

A reservation takes blocks for the worst case, the prompt and all that it may generate, so that a
request that runs is never thrown out again. Those that do not fit wait, first come, first served.

    queued ──granted──▶ reserved ──commit──▶ running ──release──▶ gone
                            │ release(receiving=True)              ▲
                            └─────────▶ draining ──────drained─────┘

The rules: a block is free only when nothing writes to it any more, neither the step that runs now
nor a transfer that still arrives; and nobody overtakes in the queue.
"""

from collections import OrderedDict
from dataclasses import dataclass
from itertools import islice
from typing import ClassVar

from lengthwise_policy.blocks import BlockPool, blocks_for, kv_slots
from lengthwise_policy.checks import require_at_least
from lengthwise_policy.deadlines import Deadlines
from lengthwise_policy.errors import DuplicateRequest, NeverFits, QueueFull, UnknownRequest
from lengthwise_policy.types import DecodeStep, RequestId


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodePolicy:
    """Limits of a decode worker."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    max_running: int = 256  # requests in one step; more may be committed and wait their turn
    queue_limit: int = 1024  # reservations that wait for blocks

    def __post_init__(self) -> None:
        require_at_least("max_running", self.max_running, 1)
        require_at_least("queue_limit", self.queue_limit, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reservation:
    """Room asked for one request: its prompt arrives as KV, the rest is generated here."""

    request_id: RequestId
    num_tokens: int
    max_new_tokens: int  # the first of them is sampled by the prefill worker
    deadline_at: float  # the reservation is a lease: from then on `expired` names it

    def __post_init__(self) -> None:
        require_at_least("num_tokens", self.num_tokens, 1)
        require_at_least("max_new_tokens", self.max_new_tokens, 1)

    @property
    def kv_tokens(self) -> int:
        return kv_slots(self.num_tokens, self.max_new_tokens)


@dataclass(slots=True)
class _Held:
    """A request that holds blocks; they are free once it is released and nothing writes to them."""

    request_id: RequestId
    block_ids: tuple[int, ...]
    steps_left: int
    committed: bool = False
    in_step: bool = False
    receiving: bool = False  # only after the release: a transfer may still write
    released: bool = False


class DecodeScheduler:
    """Plans one step at a time: `next_step`, run it, `emitted`, and again."""

    def __init__(self, policy: DecodePolicy, pool: BlockPool, block_size: int) -> None:
        require_at_least("block_size", block_size, 1)
        self._policy = policy
        self._pool = pool
        self._block_size = block_size
        # A plain dict becomes slow when it is emptied from its front.
        self._queue: OrderedDict[RequestId, Reservation] = OrderedDict()
        self._queued_tokens = 0
        self._held: dict[RequestId, _Held] = {}
        self._running: dict[RequestId, _Held] = {}  # the committed ones, in that order
        self._num_draining = 0
        self._deadlines = Deadlines()
        self._step: DecodeStep | None = None

    @property
    def num_queued(self) -> int:
        """Reservations that wait for blocks."""
        return len(self._queue)

    @property
    def queued_tokens(self) -> int:
        """KV slots that the queued reservations wait for."""
        return self._queued_tokens

    @property
    def num_reserved(self) -> int:
        """Reservations granted and not committed yet."""
        return len(self._held) - len(self._running) - self._num_draining

    @property
    def num_running(self) -> int:
        """Committed requests that are not released."""
        return len(self._running)

    @property
    def num_draining(self) -> int:
        """Released requests whose blocks a transfer or the running step may still write."""
        return self._num_draining

    def reserve(self, reservation: Reservation) -> bool:
        """True: granted, `block_ids` knows the blocks. False: queued, see `take_granted`.

        Raises QueueFull, NeverFits or DuplicateRequest (also while blocks of that id still drain).
        """
        request_id = reservation.request_id
        if request_id in self._held or request_id in self._queue:
            raise DuplicateRequest(
                f"reservation for {request_id!r}: the worker holds this id already; release it, "
                f"and let its transfer and the running step end, before it is used again"
            )
        needed = self._blocks_for(reservation)
        if needed > self._pool.num_blocks:
            raise NeverFits(
                f"reservation for {request_id!r}: {reservation.num_tokens} prompt tokens and "
                f"{reservation.max_new_tokens} new ones need {needed} blocks, the cache has "
                f"{self._pool.num_blocks}; lower max_tokens or use a worker with more KV memory"
            )
        if not self._queue and self._grant(reservation):
            granted = True
        elif len(self._queue) < self._policy.queue_limit:
            self._queue[request_id] = reservation
            self._queued_tokens += reservation.kv_tokens
            granted = False
        else:
            raise QueueFull(
                f"decode queue: {len(self._queue)} reservations wait, the limit is "
                f"{self._policy.queue_limit}; try another worker or later"
            )
        self._deadlines.add(request_id, reservation.deadline_at)
        return granted

    def take_granted(self) -> list[RequestId]:
        """Grants as much of the queue as fits now, in order, and returns what it granted.

        Call it after anything that frees blocks or shortens the queue: `release`, `drained`,
        `emitted`.
        """
        granted = []
        while self._queue:
            reservation = next(iter(self._queue.values()))
            if not self._grant(reservation):
                break
            self._unqueue(reservation)
            granted.append(reservation.request_id)
        return granted

    def commit(self, request_id: RequestId) -> None:
        """The prompt's KV is complete: the request joins the batch.

        Raises UnknownRequest unless it is reserved.
        """
        held = self._held.get(request_id)
        if held is None or held.committed or held.released:
            raise UnknownRequest(
                f"commit of {request_id!r}: expected a granted reservation, got "
                f"{self._state(request_id)}"
            )
        held.committed = True
        self._running[request_id] = held

    def next_step(self) -> DecodeStep | None:
        """Plans one token for each running request, or for the first `max_running` of them.

        A request that has generated all it reserved for is left out and waits for its release.
        Raises RuntimeError while a step is running.
        """
        if self._step is not None:
            raise RuntimeError("next_step: the last step is running; call emitted() first")
        unfinished = (held for held in self._running.values() if held.steps_left > 0)
        planned = list(islice(unfinished, self._policy.max_running))
        if not planned:
            return None
        for held in planned:
            held.in_step = True
        self._step = DecodeStep(request_ids=tuple(held.request_id for held in planned))
        return self._step

    def emitted(self, step: DecodeStep) -> tuple[RequestId, ...]:
        """Says that the running step has ended.

        Returns its requests without those released meanwhile, whose blocks may return to the pool
        here. Raises ValueError if `step` is not the running one.
        """
        if step != self._step:
            raise ValueError(f"emitted: expected the running step {self._step}, got {step}")
        self._step = None
        kept = []
        for request_id in step.request_ids:
            held = self._held[request_id]
            held.in_step = False
            if held.released:
                self._free_if_unused(held)
            else:
                held.steps_left -= 1
                kept.append(request_id)
        return tuple(kept)

    def release(self, request_id: RequestId, *, receiving: bool = False) -> bool:
        """Ends a request in any state; False when none of this id is (still) held.

        With `receiving` a transfer may still write its blocks: they are held until `drained`. If it
        is in the running step they are held until `emitted` as well.
        """
        reservation = self._queue.get(request_id)
        held = self._held.get(request_id)
        if reservation is not None:
            self._unqueue(reservation)
        elif held is None or held.released:
            return False
        else:
            self._running.pop(request_id, None)
            held.released = True
            held.receiving = receiving
            self._num_draining += 1
            self._free_if_unused(held)
        self._deadlines.discard(request_id)
        return True

    def drained(self, request_id: RequestId) -> bool:
        """No transfer writes to this released request any more; False when none was known to."""
        held = self._held.get(request_id)
        if held is None or not held.receiving:
            return False
        held.receiving = False
        self._free_if_unused(held)
        return True

    def block_ids(self, request_id: RequestId) -> tuple[int, ...]:
        """The blocks of a reserved or running request, in the order of its tokens.

        Raises UnknownRequest.
        """
        held = self._held.get(request_id)
        if held is None or held.released:
            raise UnknownRequest(
                f"blocks of {request_id!r}: expected a reserved or running request, got "
                f"{self._state(request_id)}"
            )
        return held.block_ids

    def expired(self, now: float) -> tuple[RequestId, ...]:
        """Requests in any state whose deadline has passed; each is named until it is released."""
        return self._deadlines.passed(now)

    def _blocks_for(self, reservation: Reservation) -> int:
        return blocks_for(reservation.kv_tokens, self._block_size)

    def _grant(self, reservation: Reservation) -> bool:
        block_ids = self._pool.allocate(self._blocks_for(reservation))
        if block_ids is None:
            return False
        self._held[reservation.request_id] = _Held(
            request_id=reservation.request_id,
            block_ids=block_ids,
            steps_left=reservation.max_new_tokens - 1,
        )
        return True

    def _unqueue(self, reservation: Reservation) -> None:
        del self._queue[reservation.request_id]
        self._queued_tokens -= reservation.kv_tokens

    def _free_if_unused(self, held: _Held) -> None:
        if not held.in_step and not held.receiving:
            del self._held[held.request_id]
            self._num_draining -= 1
            self._pool.release(held.block_ids)

    def _state(self, request_id: RequestId) -> str:
        held = self._held.get(request_id)
        if held is None:
            return "a queued one" if request_id in self._queue else "nothing of this id"
        return "a released one" if held.released else "a running one"

"""What a decode worker holds and what it runs next: admission, continuous batching, preemption.

A reservation takes the blocks of its prompt only, those of them shared that the cache has already;
a running request takes one more whenever its last is full. Past-Future admits only as many requests
as will probably find theirs. Where one does not, the most junior request is preempted: it releases
its blocks, waits at the head of the queue, and is computed again, with the same tokens.

Every request finishes, because the most senior admitted one always gets on. It is never preempted.
It needs a step (chunks go by seniority, and the budget holds a block beside `max_running` decodes)
and at most a block more, for which all juniors that run or compute release theirs. A request that a
transfer fills cannot, but transfers end: then it can be preempted, or is gone. While a request
lacks a block none is granted; and alone it fits, or was refused as NeverFits.

A step may be planned, and launched, before the last one has ended: as if every request of that one
went on. A request that ends meanwhile is computed in vain, and its blocks are held until then.

Invariant: no request overtakes another in the queue.
"""

from collections import deque
from collections.abc import Sequence

from lengthwise_policy.checks import require_at_least
from lengthwise_policy.cost.model import PRIOR, CostModel
from lengthwise_policy.deadlines import Deadlines
from lengthwise_policy.decode.admission import DecodeAdmission
from lengthwise_policy.decode.batch import DecodeBatch, PlannedStep
from lengthwise_policy.decode.held import HeldRequests
from lengthwise_policy.decode.policy import DecodePolicy
from lengthwise_policy.decode.request import DecodeQueue, DecodeRequest, Grant, Reservation
from lengthwise_policy.decode.step import DecodeStep
from lengthwise_policy.errors import NeverFits, QueueFull
from lengthwise_policy.kv.blocks import blocks_for
from lengthwise_policy.kv.prefix_cache import BlockHash, PrefixCache
from lengthwise_policy.objectives import Objectives
from lengthwise_policy.types import Random, RequestId

MAX_IN_FLIGHT = 2
"""Steps launched that have not ended: the second follows the tokens of the first."""


class DecodeScheduler:
    """Plans steps: `next_step`, launch it, `emitted` when it has ended, and again.

    The next one may be planned before the last one has ended.
    """

    def __init__(
        self,
        policy: DecodePolicy,
        objectives: Objectives,
        blocks: PrefixCache,
        block_size: int,
        random: Random,
    ) -> None:
        """`random` is uniform in [0, 1), e.g. `Random(seed).random`: predictions draw from it."""
        require_at_least("block_size", block_size, 1)
        require_at_least("step_tokens", policy.step_tokens, policy.max_running + block_size)
        self._policy = policy
        self._blocks = blocks
        self._block_size = block_size
        self._admission = DecodeAdmission(policy, blocks, block_size, random)
        self._held = HeldRequests(blocks)
        self._queue = DecodeQueue()
        self._admitted: dict[RequestId, DecodeRequest] = {}  # filling, computing and running
        self._batch = DecodeBatch(policy, objectives, blocks, block_size)
        self._num_reservations = 0
        self._changed = False  # since the queue was looked at
        self._deadlines = Deadlines()
        self._in_flight: deque[PlannedStep] = deque()

    @property
    def num_queued(self) -> int:
        """Reservations that wait for blocks, and preempted requests that wait to come back."""
        return len(self._queue)

    @property
    def queued_tokens(self) -> int:
        """KV slots that the queued requests may take in all."""
        return self._queue.kv_tokens

    @property
    def num_reserved(self) -> int:
        """Reservations granted whose KV has not arrived yet."""
        return len(self._admitted) - len(self._batch)

    @property
    def num_running(self) -> int:
        """Requests that are computed here or decode."""
        return len(self._batch)

    @property
    def context_tokens(self) -> int:
        """Tokens whose KV the running requests read in a step."""
        return sum([request.num_computed for request in self._batch])

    def predicted_blocks(self) -> int:
        """The most blocks that the admitted requests are predicted to hold at once."""
        return self._admission.predicted_blocks(self._admitted.values())

    def reserve(self, reservation: Reservation) -> Grant | None:
        """None: queued, see `take_granted`.

        Raises QueueFull, NeverFits or DuplicateRequest (also while blocks of that id still drain).
        """
        self._check_reservation(reservation)
        self._num_reservations += 1
        request = DecodeRequest(
            reservation=reservation,
            number=self._num_reservations,
            sequence_tokens=reservation.num_tokens,
            own_slots=reservation.num_tokens,
            hashes=list(reservation.hashes),
        )
        first = self._queue.first
        is_first = first is None or request.seniority < first.seniority
        grant = self._grant(request) if is_first else None
        if grant is None:
            if len(self._queue) >= self._policy.queue_limit:
                raise QueueFull(
                    f"decode queue: {len(self._queue)} reservations wait, the limit is "
                    f"{self._policy.queue_limit}; try another worker or later"
                )
            self._queue.add(request)
        self._held.add(request)
        self._deadlines.add(request.request_id, reservation.deadline_at)
        return grant

    def take_granted(self) -> list[Grant]:
        """Grants as much of the queue as may run now, in order, preempted requests included.

        Call it after anything that frees blocks or shortens the queue: `release`, `finish`,
        `drained`, `emitted`.
        """
        grants: list[Grant] = []
        if not self._changed:
            return grants
        self._changed = False
        while (first := self._queue.first) is not None:
            grant = self._grant(first)
            if grant is None:
                break
            self._queue.remove(first)
            grants.append(grant)
        return grants

    def commit(self, request_id: RequestId) -> None:
        """The prompt's KV has arrived whole: its full blocks are published, it joins the batch.

        Raises UnknownRequest unless it is being filled.
        """
        request = self._held.in_phase(request_id, "filling")
        self._advance(request, request.sequence_tokens)
        self._batch.join(request)

    def next_step(self, cost: CostModel = PRIOR) -> DecodeStep | None:
        """Plans one token for each running request, or for the first `max_running` of them, and
        chunks for what is left of the budget. None: nothing can run now, and nothing was preempted.

        Grows requests whose last block is full, and preempts juniors where no block is free. A
        request that has generated all it reserved for is left out and waits for its end.

        With a step in flight, the plan takes for granted that its requests go on. It preempts
        none: where that is needed it is None, and comes once the step has ended. Raises
        RuntimeError while two steps are in flight.
        """
        if len(self._in_flight) == MAX_IN_FLIGHT:
            raise RuntimeError("next_step: two steps are in flight; call emitted() first")
        planned = self._batch.plan(cost, ahead=bool(self._in_flight))
        if planned is None:
            return None
        step, rows = planned
        for request_id in step.preempted:
            self._queue.add(self._admitted.pop(request_id))
        for request in rows:
            request.launched(1)
        for chunk in step.chunks:
            self._held[chunk.request_id].launched(chunk.num_tokens)
        self._in_flight.append(planned)
        return step

    def emitted(self, step: DecodeStep) -> tuple[RequestId, ...]:
        """The step has ended, and one token came of each decode and last chunk.

        Returns their requests in the order of the step, without those that ended meanwhile. Raises
        ValueError if `step` is not the oldest in flight.
        """
        oldest, rows = self._in_flight[0] if self._in_flight else (None, ())
        if step is not oldest and step != oldest:
            raise ValueError(
                f"emitted: expected the oldest of the steps in flight"
                f" {[step for step, _ in self._in_flight]}, got {step}"
            )
        self._in_flight.popleft()
        self._changed = True
        kept = []
        for request in rows:
            if self._held.step_ended(request):
                request.advanced(request.sequence_tokens)
                kept.append(request.request_id)
        for chunk in step.chunks:
            request = self._held[chunk.request_id]
            if self._held.step_ended(request):
                self._advance(request, chunk.start + chunk.num_tokens)
                if chunk.is_last:
                    kept.append(chunk.request_id)
        return tuple(kept)

    def named(self, request_id: RequestId, hashes: Sequence[BlockHash]) -> None:
        """Adds the hashes of all full blocks of the sequence known so far, or of more.

        Those that are computed are published: others may share them, and the request itself finds
        them again after a preemption. Raises UnknownRequest unless it computes or runs.
        """
        request = self._held.in_phase(request_id, "filling", "computing", "running")
        request.hashes.extend(hashes[len(request.hashes) :])
        self._publish(request)

    def finish(self, request_id: RequestId) -> None:
        """The request generated its last token: its published blocks stay, cached.

        Raises UnknownRequest unless it runs.
        """
        request = self._held.in_phase(request_id, "running")
        self._admission.finished(request.generated)
        self._end(request, receiving=False, returning=request.reservation.returning)

    def release(self, request_id: RequestId, *, receiving: bool = False) -> bool:
        """Cancels a request in any phase; False when none of this id is (still) held.

        With `receiving` a transfer may still write its blocks: they are held until `drained`. If it
        is in a step in flight they are held until `emitted` as well.
        """
        request = self._held.living(request_id)
        if request is None:
            return False
        self._end(request, receiving=receiving, returning=False)
        return True

    def drained(self, request_id: RequestId) -> bool:
        """No transfer writes to this released request any more; False when none was known to."""
        ended = self._held.transfer_ended(request_id)
        self._changed |= ended
        return ended

    def block_ids(self, request_id: RequestId) -> tuple[int, ...]:
        """The blocks of an admitted request, in the order of its tokens. Raises UnknownRequest."""
        return self._held.in_phase(request_id, "filling", "computing", "running").block_ids

    def expired(self, now: float) -> tuple[RequestId, ...]:
        """Requests in any phase past their deadline; each is reported until it is released."""
        return self._deadlines.passed(now)

    def _check_reservation(self, reservation: Reservation) -> None:
        self._held.check_unused(reservation.request_id)
        needed = blocks_for(reservation.kv_tokens, self._block_size)
        if needed > self._blocks.num_blocks:
            raise NeverFits(
                f"reservation for {reservation.request_id!r}: {reservation.num_tokens} prompt "
                f"tokens and {reservation.max_new_tokens} new ones need {needed} blocks, the cache "
                f"has {self._blocks.num_blocks}; lower max_tokens or use a worker with more KV "
                "memory"
            )

    def _grant(self, request: DecodeRequest) -> Grant | None:
        if self._batch.is_starved:
            return None
        grant = self._admission.grant(
            request, self._admitted.values(), self._held.num_draining_blocks
        )
        if grant is None:
            return None
        self._admitted[request.request_id] = request
        if request.phase == "computing":
            self._batch.join(request)
        return grant

    def _advance(self, request: DecodeRequest, num_computed: int) -> None:
        request.advanced(num_computed)
        self._publish(request)

    def _publish(self, request: DecodeRequest) -> None:
        """Publishes the full blocks that are computed and have a name."""
        done = request.num_published
        full = min(request.num_computed // self._block_size, len(request.hashes))
        if full > done:
            self._blocks.publish(request.block_ids[done:full], request.hashes[done:full])
            request.num_published = full

    def _end(self, request: DecodeRequest, *, receiving: bool, returning: bool) -> None:
        self._changed = True
        self._deadlines.discard(request.request_id)
        if request.phase == "queued":
            self._queue.remove(request)
            self._held.forget(request)
            return
        if request.phase != "filling":
            self._batch.leave(request)
        del self._admitted[request.request_id]
        self._held.drain(request, receiving=receiving, returning=returning)

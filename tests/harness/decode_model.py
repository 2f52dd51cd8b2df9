"""A decode worker without a model: a KV cache of plain values, and requests that write and read it.

Each slot holds a value made of all tokens up to its position. Whoever computes a token first checks
every slot that it reads, so a block that is shared wrongly, freed too early, evicted while in use
or not computed shows at once.
"""

from collections.abc import Sequence
from random import Random

from lengthwise_policy.cost import PRIOR, CostModel
from lengthwise_policy.decode import DecodePolicy, DecodeScheduler, Reservation
from lengthwise_policy.decode_requests import Grant
from lengthwise_policy.prefix import PrefixCache, block_hashes
from lengthwise_policy.types import DecodeStep, RequestId

SALT = b"model"


def next_token(tokens: Sequence[int]) -> int:
    return hash(tuple(tokens)) % 5


def continuation(prompt: Sequence[int], count: int) -> list[int]:
    tokens = list(prompt)
    for _ in range(count):
        tokens.append(next_token(tokens))
    return tokens


class Request:
    """What the worker knows of one request."""

    def __init__(self, reservation: Reservation, number: int, prompt: Sequence[int]) -> None:
        self.reservation = reservation
        self.seniority = (-reservation.priority, number)
        self.prompt = list(prompt)
        self.tokens = list(prompt)
        self.block_ids: tuple[int, ...] = ()
        self.num_cached = 0
        self.filling = False

    @property
    def finished(self) -> bool:
        return len(self.tokens) - len(self.prompt) == self.reservation.max_new_tokens


class DecodeWorkerModel:
    """Does with the scheduler what the real step loop does."""

    def __init__(self, policy: DecodePolicy, num_blocks: int, block_size: int) -> None:
        self.policy = policy
        self.block_size = block_size
        self.blocks = PrefixCache(num_blocks)
        self.scheduler = DecodeScheduler(policy, self.blocks, block_size, Random(3).random)
        self.slots = [[0] * block_size for _ in range(num_blocks)]
        self.queued: dict[RequestId, Request] = {}
        self.admitted: dict[RequestId, Request] = {}
        self.draining: dict[RequestId, Request] = {}  # released while a transfer writes
        self.done: dict[RequestId, Request] = {}
        self.step: DecodeStep | None = None
        self.num_reservations = 0
        self.num_preemptions = 0
        self.computed_tokens = 0

    def reserve(
        self,
        prompt: Sequence[int],
        max_new_tokens: int,
        *,
        local: bool = False,
        priority: int = 0,
        returning: bool = False,
        deadline_at: float = 1e9,
    ) -> RequestId:
        reservation = Reservation(
            request_id=RequestId(f"r{self.num_reservations}"),
            num_tokens=len(prompt),
            max_new_tokens=max_new_tokens,
            deadline_at=deadline_at,
            hashes=block_hashes(prompt, self.block_size, SALT),
            local=local,
            returning=returning,
            priority=priority,
        )
        request = Request(reservation, self.num_reservations, prompt)
        grant = self.scheduler.reserve(reservation)
        self.num_reservations += 1
        if grant is not None:
            assert all(request.seniority < other.seniority for other in self.queued.values())
        self.queued[reservation.request_id] = request
        if grant is not None:
            self._granted(grant)
        return reservation.request_id

    def take_granted(self) -> list[Grant]:
        in_line = sorted(self.queued, key=lambda name: self.queued[name].seniority)
        grants = self.scheduler.take_granted()
        assert [grant.request_id for grant in grants] == in_line[: len(grants)]
        for grant in grants:
            self._granted(grant)
        return grants

    def arrive(self, request_id: RequestId) -> None:
        """The missing KV is written; then the prefill worker's first token comes."""
        request = self.admitted[request_id]
        self._write(request, request.num_cached, len(request.prompt))
        request.filling = False
        self.scheduler.commit(request_id)
        self._emit(request)

    def next_step(self, cost: CostModel = PRIOR) -> DecodeStep | None:
        self.step = step = self.scheduler.next_step(cost)
        if step is None:
            return None
        for request_id in step.preempted:
            request = self.queued[request_id] = self.admitted.pop(request_id)
            request.block_ids = ()
            self.num_preemptions += 1
        rows = [self.admitted[request_id] for request_id in step.request_ids]
        tokens = len(rows) + sum(chunk.num_tokens for chunk in step.chunks)
        assert len(rows) <= self.policy.max_running
        assert tokens <= self.policy.step_tokens
        for request in rows:
            request.block_ids = self.scheduler.block_ids(request.reservation.request_id)
            self._compute(request, len(request.tokens) - 1, len(request.tokens))
        for chunk in step.chunks:
            request = self.admitted[chunk.request_id]
            end = chunk.start + chunk.num_tokens
            assert chunk.is_last == (end == len(request.tokens))
            assert chunk.is_last or end % self.block_size == 0
            self._compute(request, chunk.start, end)
        return step

    def emitted(self) -> None:
        step, self.step = self.step, None
        assert step is not None
        planned = (*step.request_ids, *(chunk.request_id for chunk in step.chunks if chunk.is_last))
        kept = self.scheduler.emitted(step)
        assert kept == tuple(request_id for request_id in planned if request_id in self.admitted)
        for request_id in kept:
            self._emit(self.admitted[request_id])

    def release(self, request_id: RequestId, *, receiving: bool = False) -> None:
        request = self.queued.pop(request_id, None)
        if request is None:
            request = self.admitted.pop(request_id)
            if receiving:
                self.draining[request_id] = request
        assert self.scheduler.release(request_id, receiving=receiving)

    def drained(self, request_id: RequestId) -> None:
        """The last that a cut transfer did was to write something."""
        request = self.draining.pop(request_id)
        for block_id in request.block_ids[request.num_cached // self.block_size :]:
            self.slots[block_id] = [-1] * self.block_size
        assert self.scheduler.drained(request_id)

    def run(self, max_steps: int = 2000) -> None:
        """Until nothing is left to do, or it does not end."""
        for _ in range(max_steps):
            for request_id in [name for name, each in self.admitted.items() if each.filling]:
                self.arrive(request_id)
            self.take_granted()
            if not self.queued and not self.admitted:
                return
            if self.next_step():
                self.emitted()
        raise AssertionError(f"still at it after {max_steps} steps: {self.scheduler.waits_because}")

    def _granted(self, grant: Grant) -> None:
        request = self.admitted[grant.request_id] = self.queued.pop(grant.request_id)
        assert grant.reason
        assert grant.block_ids == self.scheduler.block_ids(grant.request_id)
        assert len(grant.block_ids) == -(-len(request.tokens) // self.block_size)
        assert grant.num_cached_tokens % self.block_size == 0
        assert grant.num_cached_tokens < len(request.tokens)
        request.block_ids = grant.block_ids
        request.num_cached = grant.num_cached_tokens
        request.filling = not (request.reservation.local or grant.resumed)
        self._check(request, grant.num_cached_tokens)

    def _emit(self, request: Request) -> None:
        request.tokens.append(next_token(request.tokens))
        request_id = request.reservation.request_id
        if (len(request.tokens) - 1) % self.block_size == 0:
            hashes = block_hashes(request.tokens[:-1], self.block_size, SALT)
            self.scheduler.named(request_id, hashes)
        if request.finished:
            self.scheduler.finish(request_id)
            self.done[request_id] = self.admitted.pop(request_id)
            expected = continuation(request.prompt, request.reservation.max_new_tokens)
            assert request.tokens == expected

    def _compute(self, request: Request, start: int, end: int) -> None:
        self._check(request, start)
        self._write(request, start, end)
        self.computed_tokens += end - start

    def _check(self, request: Request, end: int) -> None:
        for position in range(end):
            block, slot = divmod(position, self.block_size)
            value = hash(tuple(request.tokens[: position + 1]))
            assert self.slots[request.block_ids[block]][slot] == value, "somebody else's KV"

    def _write(self, request: Request, start: int, end: int) -> None:
        for position in range(start, end):
            block, slot = divmod(position, self.block_size)
            value = hash(tuple(request.tokens[: position + 1]))
            self.slots[request.block_ids[block]][slot] = value

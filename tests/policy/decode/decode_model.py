"""A decode worker without a model: a KV cache of plain values, and requests that write and read it.

Each slot holds a value made of all tokens up to its position. A step that computes a token first
checks every slot that it reads, so a block that is shared wrongly, freed too early, evicted while
in use or not computed shows at once. A launched step is computed by the device at any time until it
ends.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from lengthwise_policy.cost.model import PRIOR, CostModel
from lengthwise_policy.decode.policy import DecodePolicy
from lengthwise_policy.decode.request import Grant, Reservation
from lengthwise_policy.decode.scheduler import DecodeScheduler
from lengthwise_policy.decode.step import DecodeStep
from lengthwise_policy.kv.prefix_cache import PrefixCache, block_hashes
from lengthwise_policy.objectives import Objectives
from lengthwise_policy.types import PromptChunk, RequestId

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

    def __init__(
        self, reservation: Reservation, number: int, prompt: Sequence[int], stops_after: int
    ) -> None:
        self.reservation = reservation
        self.stops_after = stops_after  # tokens; unknown before
        self.seniority = (-reservation.priority, number)
        self.prompt = list(prompt)
        self.tokens = list(prompt)
        self.awaited = 0  # tokens that the steps in flight sample
        self.sampled: list[int] = []  # those of them that the device has already
        self.block_ids: tuple[int, ...] = ()
        self.num_cached = 0
        self.filling = False

    @property
    def finished(self) -> bool:
        return len(self.tokens) - len(self.prompt) == self.stops_after


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """Tokens [start, end) of a request in a launched step."""

    request: Request
    start: int
    end: int
    block_ids: tuple[int, ...]
    samples: bool


@dataclass(slots=True, kw_only=True)
class Flight:
    """A step that was launched."""

    step: DecodeStep
    jobs: list[Job]
    is_computed: bool = False


class DecodeWorkerModel:
    """Does with the scheduler what the real step loop does."""

    def __init__(self, policy: DecodePolicy, num_blocks: int, block_size: int) -> None:
        self.policy = policy
        self.block_size = block_size
        self.blocks = PrefixCache(num_blocks)
        self.scheduler = DecodeScheduler(
            policy, Objectives(), self.blocks, block_size, Random(3).random
        )
        self.slots = [[0] * block_size for _ in range(num_blocks)]
        self.queued: dict[RequestId, Request] = {}
        self.admitted: dict[RequestId, Request] = {}
        self.draining: dict[RequestId, Request] = {}  # released while a transfer writes
        self.done: dict[RequestId, Request] = {}
        self.flights: deque[Flight] = deque()  # oldest first
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
        stops_after: int | None = None,
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
        stops_after = min(stops_after or max_new_tokens, max_new_tokens)
        request = Request(reservation, self.num_reservations, prompt, stops_after)
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
        self._write(request.tokens, request.block_ids, request.num_cached, len(request.prompt))
        request.filling = False
        self.scheduler.commit(request_id)
        self._emit(request, next_token(request.tokens))

    def next_step(self, cost: CostModel = PRIOR) -> DecodeStep | None:
        """Plans and launches it."""
        step = self.scheduler.next_step(cost)
        preempted = step.preempted if step else ()
        for request_id in preempted:
            assert not self.flights, "what runs still writes to these blocks"
            request = self.queued[request_id] = self.admitted.pop(request_id)
            request.block_ids = ()
            self.num_preemptions += 1
        for request_id, request in self.admitted.items():
            request.block_ids = self.scheduler.block_ids(request_id)
        if step is None:
            return None
        jobs = [self._row(self.admitted[request_id]) for request_id in step.request_ids]
        num_tokens = len(jobs) + sum(chunk.num_tokens for chunk in step.chunks)
        assert len(jobs) <= self.policy.max_running
        assert num_tokens <= self.policy.step_tokens
        jobs += [self._chunk(chunk) for chunk in step.chunks]
        assert len({id(job.request) for job in jobs}) == len(jobs)
        for job in jobs:
            job.request.awaited += job.samples
        self.flights.append(Flight(step=step, jobs=jobs))
        return step

    def compute(self) -> None:
        """The device has computed the next of the steps that were launched."""
        flight = next((each for each in self.flights if not each.is_computed), None)
        if flight is None:
            return
        flight.is_computed = True
        for job in flight.jobs:
            tokens = job.request.tokens + job.request.sampled
            self._check(tokens, job.block_ids, job.start)
            self._write(tokens, job.block_ids, job.start, job.end)
            self.computed_tokens += job.end - job.start
            if job.samples:
                assert job.end == len(tokens)
                job.request.sampled.append(next_token(tokens))

    def emitted(self) -> None:
        """The oldest step in flight has ended."""
        if not self.flights[0].is_computed:
            self.compute()
        flight = self.flights.popleft()
        sampling = [job.request for job in flight.jobs if job.samples]
        held = [each for each in sampling if self._name(each) in self.admitted]
        kept = self.scheduler.emitted(flight.step)
        assert kept == tuple(self._name(request) for request in held)
        for request in sampling:
            request.awaited -= 1
            token = request.sampled.pop(0)
            if request in held:
                self._emit(request, token)
            else:  # in vain, but what was launched after it goes on from there
                request.tokens.append(token)

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

    def run(self, max_steps: int = 2000, *, ahead: bool = False) -> None:
        """Until nothing is left to do, or it does not end; `ahead`: launches the next step before
        the last one has ended."""
        for _ in range(max_steps):
            for request_id in [name for name, each in self.admitted.items() if each.filling]:
                self.arrive(request_id)
            self.take_granted()
            if not self.queued and not self.admitted and not self.flights:
                return
            step = self.next_step()
            while len(self.flights) > (1 if ahead and step else 0):
                self.emitted()
        raise AssertionError(f"still at it after {max_steps} steps")

    def _granted(self, grant: Grant) -> None:
        request = self.admitted[grant.request_id] = self.queued.pop(grant.request_id)
        assert grant.reason.startswith(f"{grant.rule}: ")
        assert grant.block_ids == self.scheduler.block_ids(grant.request_id)
        assert len(grant.block_ids) == -(-len(request.tokens) // self.block_size)
        assert grant.num_cached_tokens % self.block_size == 0
        assert grant.num_cached_tokens < len(request.tokens)
        request.block_ids = grant.block_ids
        request.num_cached = grant.num_cached_tokens
        request.filling = not (request.reservation.local or grant.rule == "resumed")
        self._check(request.tokens, request.block_ids, grant.num_cached_tokens)

    def _row(self, request: Request) -> Job:
        end = len(request.tokens) + request.awaited
        return Job(
            request=request, start=end - 1, end=end, block_ids=request.block_ids, samples=True
        )

    def _chunk(self, chunk: PromptChunk) -> Job:
        request = self.admitted[chunk.request_id]
        end = chunk.start + chunk.num_tokens
        assert chunk.is_last == (end == len(request.tokens))
        assert chunk.is_last or end % self.block_size == 0
        return Job(
            request=request,
            start=chunk.start,
            end=end,
            block_ids=request.block_ids,
            samples=chunk.is_last,
        )

    def _emit(self, request: Request, token: int) -> None:
        request.tokens.append(token)
        request_id = self._name(request)
        if (len(request.tokens) - 1) % self.block_size == 0:
            hashes = block_hashes(request.tokens[:-1], self.block_size, SALT)
            self.scheduler.named(request_id, hashes)
        if request.finished:
            self.scheduler.finish(request_id)
            self.done[request_id] = self.admitted.pop(request_id)
            assert request.tokens == continuation(request.prompt, request.stops_after)

    @staticmethod
    def _name(request: Request) -> RequestId:
        return request.reservation.request_id

    def _check(self, tokens: Sequence[int], block_ids: Sequence[int], end: int) -> None:
        for position in range(end):
            block, slot = divmod(position, self.block_size)
            value = hash(tuple(tokens[: position + 1]))
            assert self.slots[block_ids[block]][slot] == value, "another sequence's KV"

    def _write(self, tokens: Sequence[int], block_ids: Sequence[int], start: int, end: int) -> None:
        for position in range(start, end):
            block, slot = divmod(position, self.block_size)
            self.slots[block_ids[block]][slot] = hash(tuple(tokens[: position + 1]))

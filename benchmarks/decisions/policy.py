"""What the policies cost: microseconds of CPU time of one decision, without any model.

Run `python -m decisions.policy`; it prints a table and appends to benchmarks/data/policy.csv,
one row per decision with its conditions. Budget: next_batch with 10,000 requests queued 1 ms.
Placements are measured in placement.py, the prefix cache in prefix.py.
"""

from collections.abc import Callable, Iterator
from functools import partial
from random import Random
from statistics import quantiles
from time import thread_time

from rows import append_rows

from lengthwise_policy.decode.policy import DecodePolicy
from lengthwise_policy.decode.request import Reservation
from lengthwise_policy.decode.scheduler import DecodeScheduler
from lengthwise_policy.kv.blocks import BlockPool
from lengthwise_policy.kv.prefix_cache import BlockHash, PrefixCache, block_hashes
from lengthwise_policy.objectives import Objectives
from lengthwise_policy.prefill.batch import PrefillBatch
from lengthwise_policy.prefill.policy import DisciplineName, PrefillPolicy
from lengthwise_policy.prefill.queue import PrefillJob
from lengthwise_policy.prefill.scheduler import PrefillScheduler
from lengthwise_policy.types import RequestId

REPEATS = 1000
BLOCK_SIZE = 16
NUM_BLOCKS = 100_000

# Decision, conditions, microseconds of each repeat.
Measured = tuple[str, str, list[float]]


def microseconds(
    call: Callable[[], object], before: Callable[[], object] = lambda: None
) -> list[float]:
    """CPU time of `call`, with `before` untimed in front of each."""
    taken = []
    for _ in range(REPEATS):
        before()
        start = thread_time()
        call()
        taken.append((thread_time() - start) * 1e6)
    return taken


def prompt_tokens(random: Random) -> int:
    """Log-normal: median 150 tokens, 1 % above 4,900."""
    return min(32_768, 1 + int(random.lognormvariate(5, 1.5)))


class FullQueue:
    """A prefill scheduler with 10,000 requests queued: what has been computed is replaced."""

    def __init__(
        self,
        random: Random,
        prompt_tokens: Callable[[Random], int],
        discipline: DisciplineName,
        history: int = 0,
    ) -> None:
        """`history`: cached tokens at the front of every prompt, one of 100 of them."""
        self._random = random
        self._prompt_tokens = prompt_tokens
        self._histories = [self._cache_of(number, history) for number in range(100)]
        self._history = history
        self._num_arrived = 0
        self._batch: PrefillBatch | None = None
        cache = PrefixCache(NUM_BLOCKS)
        for hashes in self._histories:
            taken = cache.take((), len(hashes)) if hashes else None
            if taken is not None:
                cache.publish(taken.block_ids, hashes)
                cache.release(taken.block_ids)
        policy = PrefillPolicy(discipline=discipline, queue_limit=10_000)
        self.scheduler = PrefillScheduler(policy, Objectives(), cache, BLOCK_SIZE)
        self.refill()

    @staticmethod
    def _cache_of(number: int, history: int) -> tuple[BlockHash, ...]:
        return tuple(block_hashes([number] * history, BLOCK_SIZE, b"salt"))

    def refill(self) -> None:
        while self.scheduler.num_queued < 10_000:
            self._num_arrived += 1
            self.scheduler.enqueue(
                PrefillJob(
                    request_id=RequestId(f"request-{self._num_arrived}"),
                    num_tokens=self._history + self._prompt_tokens(self._random),
                    arrived_at=0.0,
                    deadline_at=60.0 + self._random.random(),
                    hashes=self._histories[self._num_arrived % 100],
                )
            )

    def plan(self) -> None:
        self._batch = self.scheduler.next_batch(0.0)

    def end(self) -> None:
        if self._batch:
            for request_id in self.scheduler.computed(self._batch):
                self.scheduler.release(request_id)
            self._batch = None

    def end_and_refill(self) -> None:
        self.end()
        self.refill()

    def refill_and_plan(self) -> None:
        self.refill()
        self.plan()


def measure_prefill(random: Random) -> Iterator[Measured]:
    queues: list[tuple[DisciplineName, str, Callable[[Random], int], int]] = [
        ("length_aware", "median 150 tokens", prompt_tokens, 0),
        ("length_aware", "8 tokens each: 64 a batch", lambda random: 8, 0),
        ("length_aware", "8 tokens after 2,048 cached ones: 64 a batch", lambda random: 8, 2048),
        ("short_first", "median 150 tokens", prompt_tokens, 0),
        ("fcfs", "median 150 tokens", prompt_tokens, 0),
        ("fcfs", "8 tokens each: 64 a batch", lambda random: 8, 0),
    ]
    for discipline, prompts, tokens, history in queues:
        queue = FullQueue(random, tokens, discipline, history)
        conditions = f"10,000 queued, {prompts}; 512 tokens a batch; 100,000 blocks"
        name = f"prefill, {discipline}"
        yield f"{name}: next_batch", conditions, microseconds(queue.plan, queue.end_and_refill)
        queue.end()
        ends = microseconds(queue.end, queue.refill_and_plan)
        yield f"{name}: computed, release", conditions, ends
    yield (
        "prefill: expired, none is",
        "10,000 queued",
        microseconds(partial(queue.scheduler.expired, 1.0)),
    )


def measure_decode(random: Random) -> Iterator[Measured]:
    cache = PrefixCache(NUM_BLOCKS)
    scheduler = DecodeScheduler(DecodePolicy(), Objectives(), cache, BLOCK_SIZE, random.random)

    def reserve(request_id: RequestId) -> None:
        scheduler.reserve(
            Reservation(
                request_id=request_id,
                num_tokens=min(4096, prompt_tokens(random)),
                max_new_tokens=2 * REPEATS,
                deadline_at=60.0,
            )
        )

    def come_and_go() -> None:
        reserve(RequestId("passing"))
        scheduler.release(RequestId("passing"))
        scheduler.take_granted()

    def step() -> None:
        planned = scheduler.next_step()
        if planned:
            scheduler.emitted(planned)

    for number in range(256):
        request_id = RequestId(f"request-{number}")
        reserve(request_id)
        scheduler.commit(request_id)
    conditions = "256 running; 100,000 blocks"
    yield "decode: next_step, emitted", conditions, microseconds(step)
    yield "decode: reserve, release, take_granted", conditions, microseconds(come_and_go)


def measure_blocks(random: Random) -> Iterator[Measured]:
    """The pool is kept 95 % full; the owner that goes is drawn at random."""
    pool = BlockPool(NUM_BLOCKS)
    held: list[tuple[int, ...]] = []
    wanted = 0

    def make_room() -> None:
        nonlocal wanted
        wanted = 1 + int(random.lognormvariate(3.5, 1.2))
        while pool.num_free < NUM_BLOCKS // 20 + wanted:
            index = random.randrange(len(held))
            held[index], held[-1] = held[-1], held[index]
            pool.release(held.pop())

    def allocate() -> None:
        taken = pool.allocate(wanted)
        if taken:
            held.append(taken)

    def make_room_and_allocate() -> None:
        make_room()
        allocate()

    def release() -> None:
        pool.release(held.pop(0))

    for _ in range(4 * REPEATS):
        make_room_and_allocate()
    conditions = "100,000 blocks, 95 % in use; median 33 blocks a request"
    yield "blocks: allocate", conditions, microseconds(allocate, make_room)
    yield "blocks: release", conditions, microseconds(release, make_room_and_allocate)


def main() -> None:
    rows = []
    for measure in (measure_prefill, measure_decode, measure_blocks):
        for decision, conditions, taken in measure(Random(1)):
            cuts = quantiles(taken, n=100)
            rows.append(
                {
                    "decision": decision,
                    "conditions": conditions,
                    "repeats": len(taken),
                    "p50_us": f"{cuts[49]:.1f}",
                    "p99_us": f"{cuts[98]:.1f}",
                }
            )
            print(f"{decision:40} {cuts[49]:8.1f} µs p50 {cuts[98]:8.1f} µs p99  {conditions}")
    append_rows("policy", rows)


if __name__ == "__main__":
    main()

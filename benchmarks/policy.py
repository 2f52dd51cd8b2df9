"""What the policies cost: microseconds of one decision on one core, without any model.

Run `python benchmarks/policy.py`; it prints a table and writes benchmarks/data/policy.csv, one row
per decision with its conditions. Budgets: next_batch with 10,000 requests queued 1 ms, a placement
over 256 workers 0.3 ms.
"""

import csv
import platform
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from random import Random
from statistics import quantiles
from time import perf_counter

from lengthwise_policy.blocks import BlockPool
from lengthwise_policy.decode import DecodePolicy, DecodeScheduler, Reservation
from lengthwise_policy.placement import STRATEGIES
from lengthwise_policy.prefill import PrefillJob, PrefillPolicy, PrefillScheduler
from lengthwise_policy.types import (
    PlacementRequest,
    PrefillBatch,
    RequestId,
    Role,
    WorkerId,
    WorkerView,
)

ROOT = Path(__file__).parent
REPEATS = 2000
BLOCK_SIZE = 16
NUM_BLOCKS = 100_000

# Decision, conditions, microseconds of each repeat.
Measured = tuple[str, str, list[float]]


def microseconds(
    call: Callable[[], object], before: Callable[[], object] = lambda: None
) -> list[float]:
    """Times `call`, with `before` untimed in front of each."""
    taken = []
    for _ in range(REPEATS):
        before()
        start = perf_counter()
        call()
        taken.append((perf_counter() - start) * 1e6)
    return taken


def prompt_tokens(random: Random) -> int:
    """Log-normal: median 150 tokens, 1 % above 4,900."""
    return min(32_768, 1 + int(random.lognormvariate(5, 1.5)))


class FullQueue:
    """A prefill scheduler with 10,000 requests queued: what has been computed is replaced."""

    def __init__(self, random: Random, prompt_tokens: Callable[[Random], int]) -> None:
        self._random = random
        self._prompt_tokens = prompt_tokens
        self._num_arrived = 0
        self._batch: PrefillBatch | None = None
        self.scheduler = PrefillScheduler(
            PrefillPolicy(queue_limit=10_000), BlockPool(NUM_BLOCKS), BLOCK_SIZE
        )
        self.refill()

    def refill(self) -> None:
        while self.scheduler.num_queued < 10_000:
            self._num_arrived += 1
            self.scheduler.enqueue(
                PrefillJob(
                    request_id=RequestId(f"request-{self._num_arrived}"),
                    num_tokens=self._prompt_tokens(self._random),
                    arrived_at=0.0,
                    deadline_at=60.0 + self._random.random(),
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
    for prompts, tokens in (
        ("median 150 tokens", prompt_tokens),
        ("8 tokens each: 64 a batch", lambda random: 8),
    ):
        queue = FullQueue(random, tokens)
        conditions = f"10,000 queued, {prompts}; 512 tokens a batch; 100,000 blocks"
        yield "prefill: next_batch", conditions, microseconds(queue.plan, queue.end_and_refill)
        queue.end()
        ends = microseconds(queue.end, queue.refill_and_plan)
        yield "prefill: computed, release", conditions, ends
        yield (
            "prefill: expired, none is",
            conditions,
            microseconds(partial(queue.scheduler.expired, 1.0)),
        )


def measure_decode(random: Random) -> Iterator[Measured]:
    scheduler = DecodeScheduler(DecodePolicy(), BlockPool(NUM_BLOCKS), BLOCK_SIZE)

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


def measure_placement(random: Random) -> Iterator[Measured]:
    def view(role: Role, number: int) -> WorkerView:
        return WorkerView(
            worker_id=WorkerId(f"{role}-{number}"),
            role=role,
            blocks_total=10_000,
            blocks_free=random.randrange(10_000),
            block_size=BLOCK_SIZE,
            running_requests=0,
            queued_requests=0,
            queued_tokens=random.randrange(10_000),
            step=0,
            draining=False,
            model_fingerprint="0123456789abcdef",
            layout_fingerprint="fedcba9876543210",
            outstanding_requests=0,
            outstanding_tokens=random.randrange(10_000),
        )

    prefill = [view("prefill", number) for number in range(128)]
    decode = [view("decode", number) for number in range(128)]
    request = PlacementRequest(request_id=RequestId("r"), num_tokens=500, max_new_tokens=100)
    retry = replace(request, excluded=frozenset({prefill[0].worker_id, decode[0].worker_id}))
    for name, make in sorted(STRATEGIES.items()):
        strategy = make(random.random)
        for asked, which in ((request, "first try"), (retry, "retry, one of each excluded")):
            yield (
                f"placement: {name}",
                f"128 prefill and 128 decode workers of one kind; {which}",
                microseconds(partial(strategy, asked, prefill, decode)),
            )


def environment() -> dict[str, str]:
    """The conditions that all rows share; the commit is the last one that changed the policies."""
    commit = subprocess.run(
        ["git", "log", "-1", "--format=%h", "--", "policy"],
        cwd=ROOT.parent,
        capture_output=True,
        text=True,
        check=True,
        timeout=10,
    )
    return {
        "python": platform.python_version(),
        "processor": processor(),
        "date": datetime.now(UTC).date().isoformat(),
        "commit": commit.stdout.strip(),
    }


def processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def main() -> None:
    shared = environment()
    rows = []
    for measure in (measure_prefill, measure_decode, measure_blocks, measure_placement):
        for decision, conditions, taken in measure(Random(1)):
            cuts = quantiles(taken, n=100)
            rows.append(
                {
                    "decision": decision,
                    "conditions": conditions,
                    "repeats": len(taken),
                    "p50_us": f"{cuts[49]:.1f}",
                    "p99_us": f"{cuts[98]:.1f}",
                    **shared,
                }
            )
            print(f"{decision:40} {cuts[49]:8.1f} µs p50 {cuts[98]:8.1f} µs p99  {conditions}")
    with (ROOT / "data" / "policy.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()

"""The rule of LAPS' published code: full lengths, short ones strictly first, a fixed window."""

import math

import pytest

from lengthwise_policy.cost.model import PRIOR
from lengthwise_policy.kv.prefix_cache import PrefixCache, block_hashes
from lengthwise_policy.objectives import Objectives
from lengthwise_policy.prefill.batch import PrefillBatch
from lengthwise_policy.prefill.policy import PrefillPolicy
from lengthwise_policy.prefill.queue import PrefillJob
from lengthwise_policy.prefill.scheduler import PrefillScheduler
from lengthwise_policy.types import RequestId

BLOCK_SIZE = 16


class Worker:
    def __init__(self) -> None:
        policy = PrefillPolicy(discipline="short_first")
        self.scheduler = PrefillScheduler(policy, Objectives(), PrefixCache(10_000), BLOCK_SIZE)
        self.num_arrived = 0

    def enqueue(self, num_tokens: int, at: float = 0.0, priority: int = 0) -> None:
        self.num_arrived += 1
        self.scheduler.enqueue(
            PrefillJob(
                request_id=RequestId(f"r{self.num_arrived}"),
                num_tokens=num_tokens,
                arrived_at=at,
                deadline_at=math.inf,
                hashes=tuple(block_hashes([1] * num_tokens, BLOCK_SIZE, b"")),
                priority=priority,
            )
        )

    def plan(self, now: float) -> list[str] | None:
        batch = self.scheduler.next_batch(now, PRIOR, short_tokens=64)
        return None if batch is None else self.end(batch)

    def end(self, batch: PrefillBatch) -> list[str]:
        assert batch.reason.startswith("short_first: ")
        for request_id in self.scheduler.computed(batch):
            self.scheduler.release(request_id)
        return [chunk.request_id for chunk in batch.chunks]


def test_short_prompts_wait_for_five_milliseconds() -> None:
    worker = Worker()
    worker.enqueue(20, at=1.0)
    assert worker.plan(1.0) is None
    assert worker.scheduler.wake_at == pytest.approx(1.005)
    worker.enqueue(8, at=1.004)
    assert worker.plan(1.005) == ["r1", "r2"]


def test_eight_short_prompts_do_not_wait() -> None:
    worker = Worker()
    for _ in range(9):
        worker.enqueue(8, at=1.0)
    assert worker.plan(1.0) == [f"r{number}" for number in range(1, 9)]
    assert worker.plan(1.0) is None


def test_a_stream_of_short_prompts_starves_long_ones() -> None:
    worker = Worker()
    worker.enqueue(2000)
    for tick in range(1, 1000):
        worker.enqueue(20, at=0.01 * tick)
        assert worker.plan(0.01 * tick + 0.005) == [f"r{tick + 1}"]


def test_a_long_prompt_runs_alone_while_the_window_is_open() -> None:
    worker = Worker()
    worker.enqueue(300)
    worker.enqueue(300)
    worker.enqueue(20)
    assert [worker.plan(0.0), worker.plan(0.0), worker.plan(0.0)] == [["r1"], ["r2"], None]


def test_the_full_length_decides_whatever_is_cached() -> None:
    worker = Worker()
    worker.enqueue(256)
    worker.enqueue(257)
    assert worker.scheduler.queue_length("short").requests == 1
    assert worker.plan(0.0) == ["r2"]  # it leaves all of the other's blocks in the cache
    worker.enqueue(257)
    assert worker.scheduler.queue_length("long").requests == 1
    assert worker.scheduler.queue_length("long").tokens == 1


def test_priorities_and_deadlines_change_nothing() -> None:
    worker = Worker()
    worker.enqueue(20, at=0.0)
    worker.enqueue(20, at=0.0, priority=9)
    assert worker.plan(1.0) == ["r1", "r2"]

"""PrefillScheduler by example, first come, first served: chunks, shared batches, waiting, refusals,
cancelling."""

import math

import pytest

from lengthwise_policy.errors import DuplicateRequest, NeverFits, QueueFull, UnknownRequest
from lengthwise_policy.kv.prefix_cache import PrefixCache
from lengthwise_policy.objectives import Objectives
from lengthwise_policy.prefill.batch import PrefillBatch
from lengthwise_policy.prefill.policy import PrefillPolicy
from lengthwise_policy.prefill.queue import PrefillJob, QueueLength
from lengthwise_policy.prefill.scheduler import PrefillScheduler
from lengthwise_policy.types import RequestId

BLOCK_SIZE = 16
A, B, C = RequestId("a"), RequestId("b"), RequestId("c")


def scheduler(
    *, num_blocks: int = 1000, chunk_tokens: int = 512, max_batch_requests: int = 64
) -> tuple[PrefillScheduler, PrefixCache]:
    pool = PrefixCache(num_blocks)
    policy = PrefillPolicy(
        discipline="fcfs",
        chunk_tokens=chunk_tokens,
        max_batch_requests=max_batch_requests,
        queue_limit=8,
    )
    return PrefillScheduler(policy, Objectives(), pool, BLOCK_SIZE), pool


def job(request_id: str, num_tokens: int, *, deadline_at: float = math.inf) -> PrefillJob:
    return PrefillJob(
        request_id=RequestId(request_id),
        num_tokens=num_tokens,
        arrived_at=0.0,
        deadline_at=deadline_at,
    )


def planned(batch: PrefillBatch | None) -> list[tuple[str, int, int, bool]]:
    assert batch is not None
    return [(c.request_id, c.start, c.num_tokens, c.is_last) for c in batch.chunks]


def run_next(prefill: PrefillScheduler) -> list[tuple[str, int, int, bool]]:
    batch = prefill.next_batch(now=0.0)
    chunks = planned(batch)
    assert batch is not None
    prefill.computed(batch)
    return chunks


@pytest.mark.parametrize(
    ("num_tokens", "batches"),
    [
        pytest.param([1], [[("0", 0, 1, True)]], id="one token"),
        pytest.param([512], [[("0", 0, 512, True)]], id="exactly the budget"),
        pytest.param(
            [513], [[("0", 0, 512, False)], [("0", 512, 1, True)]], id="one token above the budget"
        ),
        pytest.param(
            [100, 412], [[("0", 0, 100, True), ("1", 0, 412, True)]], id="two that fill a batch"
        ),
        pytest.param(
            [100, 413],
            [[("0", 0, 100, True), ("1", 0, 400, False)], [("1", 400, 13, True)]],
            id="a chunk that is not the last ends on a block boundary",
        ),
        pytest.param(
            [500, 200, 5],
            [[("0", 0, 500, True)], [("1", 0, 200, True), ("2", 0, 5, True)]],
            id="no request overtakes when less than a block is left",
        ),
        pytest.param(
            [1000, 30, 600],
            [
                [("0", 0, 512, False)],
                [("0", 512, 488, True), ("1", 0, 16, False)],
                [("1", 16, 14, True), ("2", 0, 496, False)],
                [("2", 496, 104, True)],
            ],
            id="what the end of a long prompt leaves of a batch is used",
        ),
    ],
)
def test_batches_are_filled_in_order(
    num_tokens: list[int], batches: list[list[tuple[str, int, int, bool]]]
) -> None:
    prefill, _ = scheduler()
    for index, count in enumerate(num_tokens):
        prefill.enqueue(job(str(index), count))
    assert [run_next(prefill) for _ in batches] == batches
    assert prefill.next_batch(now=0.0) is None


@pytest.mark.parametrize(
    ("num_tokens", "cut_by"),
    [
        pytest.param([10], "end of queue", id="queue"),
        pytest.param([10, 10, 10], "request limit", id="requests"),
        pytest.param([600], "token budget", id="tokens"),
        pytest.param([400, 16 * 20], "lack of free blocks", id="blocks"),
    ],
)
def test_a_batch_says_what_cut_it_and_how_long_its_oldest_waited(
    num_tokens: list[int], cut_by: str
) -> None:
    prefill, _ = scheduler(num_blocks=40, max_batch_requests=2)
    for index, count in enumerate(num_tokens):
        prefill.enqueue(job(str(index), count))
    batch = prefill.next_batch(now=1.5)
    assert batch is not None
    assert batch.reason.startswith("fcfs: ")
    assert batch.reason.endswith(f"cut by {cut_by}, oldest waited 1.500 s")


def test_a_prompt_takes_all_its_blocks_when_it_begins_and_keeps_them_when_computed() -> None:
    prefill, pool = scheduler()
    prefill.enqueue(job(A, 1000))
    assert pool.num_free == 1000
    with pytest.raises(UnknownRequest, match="has begun"):
        prefill.block_ids(A)
    run_next(prefill)
    assert len(prefill.block_ids(A)) == 63
    run_next(prefill)
    assert (prefill.num_queued, pool.num_free) == (0, 1000 - 63)
    assert prefill.release(A)
    assert pool.num_free == 1000


def test_the_first_in_line_waits_for_blocks_and_is_not_overtaken() -> None:
    prefill, _ = scheduler(num_blocks=10)
    prefill.enqueue(job(A, 8 * BLOCK_SIZE))
    run_next(prefill)
    prefill.enqueue(job(B, 3 * BLOCK_SIZE))
    prefill.enqueue(job(C, 1))
    assert prefill.next_batch(now=0.0) is None
    prefill.release(A)
    assert [chunk[0] for chunk in run_next(prefill)] == [B, C]


def test_a_prompt_released_while_it_runs_frees_its_blocks_when_the_batch_has_ended() -> None:
    prefill, pool = scheduler(num_blocks=10)
    prefill.enqueue(job(A, 5 * BLOCK_SIZE))
    prefill.enqueue(job(B, 5 * BLOCK_SIZE))
    batch = prefill.next_batch(now=0.0)
    assert batch is not None
    assert prefill.release(A)
    assert not prefill.release(A)
    assert pool.num_free == 0
    with pytest.raises(DuplicateRequest):
        prefill.enqueue(job(A, 1))
    with pytest.raises(UnknownRequest):
        prefill.block_ids(A)
    assert prefill.computed(batch) == (B,)
    assert pool.num_free == 5


def test_a_prompt_released_between_its_chunks_is_never_scheduled_again() -> None:
    prefill, pool = scheduler()
    prefill.enqueue(job(A, 1000))
    run_next(prefill)
    prefill.release(A)
    assert prefill.next_batch(now=0.0) is None
    assert pool.num_free == 1000


def test_the_queue_is_counted_by_length_class_in_tokens_still_to_compute() -> None:
    prefill, _ = scheduler()
    prefill.enqueue(job(A, 256))
    prefill.enqueue(job(B, 600))
    assert prefill.queue_length("short") == QueueLength(requests=1, tokens=256)
    assert prefill.queue_length("long") == QueueLength(requests=1, tokens=600)
    run_next(prefill)
    assert prefill.queue_length("short") == QueueLength(requests=0, tokens=0)
    assert prefill.queue_length("long") == QueueLength(requests=1, tokens=344)
    prefill.release(B)
    assert prefill.queue_length("long") == QueueLength(requests=0, tokens=0)


def test_a_prompt_larger_than_the_cache_is_refused_at_once() -> None:
    prefill, _ = scheduler(num_blocks=4)
    prefill.enqueue(job(A, 64))
    with pytest.raises(NeverFits, match="65 tokens need 5 blocks, the cache has 4"):
        prefill.enqueue(job(B, 65))


def test_a_full_queue_refuses() -> None:
    prefill, _ = scheduler()
    for index in range(8):
        prefill.enqueue(job(str(index), 600))
    with pytest.raises(QueueFull, match="8 requests wait, the limit is 8"):
        prefill.enqueue(job(A, 1))
    run_next(prefill)
    run_next(prefill)
    prefill.enqueue(job(A, 1))


def test_expired_requests_are_named_until_they_are_released() -> None:
    prefill, _ = scheduler()
    prefill.enqueue(job(B, 600, deadline_at=2.0))
    prefill.enqueue(job(A, 600, deadline_at=1.0))
    prefill.enqueue(job(C, 600, deadline_at=3.0))
    run_next(prefill)
    assert prefill.expired(now=0.9) == ()
    assert prefill.expired(now=2.0) == (A, B)
    assert prefill.expired(now=2.0) == (A, B)
    prefill.release(A)
    assert prefill.expired(now=2.0) == (B,)


def test_only_one_batch_runs_at_a_time() -> None:
    prefill, _ = scheduler()
    prefill.enqueue(job(A, 600))
    batch = prefill.next_batch(now=0.0)
    assert batch is not None
    with pytest.raises(RuntimeError, match="the last batch is running"):
        prefill.next_batch(now=0.0)
    prefill.computed(batch)
    with pytest.raises(ValueError, match="expected the running batch None"):
        prefill.computed(batch)


def test_the_token_budget_must_hold_a_block() -> None:
    with pytest.raises(ValueError, match="chunk_tokens"):
        PrefillScheduler(PrefillPolicy(chunk_tokens=15), Objectives(), PrefixCache(1), BLOCK_SIZE)


def test_an_empty_prompt_is_refused() -> None:
    with pytest.raises(ValueError, match="num_tokens: expected at least 1, got 0"):
        job(A, 0)

"""PrefillScheduler and cached prefixes: what is reused, published, classed anew, waited for."""

import math

from lengthwise_policy.kv.prefix_cache import PrefixCache, block_hashes
from lengthwise_policy.objectives import Objectives
from lengthwise_policy.prefill.batch import PrefillBatch
from lengthwise_policy.prefill.policy import PrefillPolicy
from lengthwise_policy.prefill.queue import PrefillJob
from lengthwise_policy.prefill.scheduler import PrefillScheduler
from lengthwise_policy.types import RequestId

BLOCK_SIZE = 16
A, B, C, D = (RequestId(name) for name in "abcd")


def worker(num_blocks: int = 1000) -> tuple[PrefillScheduler, PrefixCache]:
    cache = PrefixCache(num_blocks)
    return PrefillScheduler(PrefillPolicy(), Objectives(), cache, BLOCK_SIZE), cache


def job(
    request_id: RequestId,
    num_tokens: int,
    *,
    shared: int = 1_000_000,
    returning: bool = False,
) -> PrefillJob:
    """Prompts are equal in their first `shared` tokens."""
    token_ids = [0 if index < shared else ord(request_id) for index in range(num_tokens)]
    return PrefillJob(
        request_id=request_id,
        num_tokens=num_tokens,
        arrived_at=0.0,
        deadline_at=math.inf,
        hashes=tuple(block_hashes(token_ids, BLOCK_SIZE, b"")),
        returning=returning,
    )


def plan(prefill: PrefillScheduler) -> PrefillBatch:
    batch = prefill.next_batch(0.0)
    assert batch is not None
    return batch


def compute(prefill: PrefillScheduler, *jobs: PrefillJob) -> list[tuple[str, int, int]]:
    """Runs these jobs to their end and releases them; returns all chunks."""
    chunks: list[tuple[str, int, int]] = []
    for each in jobs:
        prefill.enqueue(each)
    while prefill.num_queued:
        batch = plan(prefill)
        chunks += [(c.request_id, c.start, c.num_tokens) for c in batch.chunks]
        for request_id in prefill.computed(batch):
            prefill.release(request_id)
    return chunks


def test_only_what_no_prefix_covers_is_computed() -> None:
    prefill, cache = worker()
    assert compute(prefill, job(A, 100)) == [("a", 0, 100)]
    assert cache.num_cached == 6
    prefill.enqueue(job(B, 200))
    assert prefill.queue_length("short").tokens == 104
    batch = plan(prefill)
    assert [(c.start, c.num_tokens) for c in batch.chunks] == [(96, 104)]
    assert prefill.num_cached_tokens(B) == 96


def test_the_last_token_is_computed_even_where_all_is_cached() -> None:
    prefill, _ = worker()
    compute(prefill, job(A, 96))
    assert compute(prefill, job(B, 96)) == [("b", 80, 16)]
    assert compute(prefill, job(C, 97)) == [("c", 96, 1)]


def test_a_long_prompt_with_a_cached_prefix_is_short() -> None:
    prefill, _ = worker()
    compute(prefill, job(A, 1000))
    prefill.enqueue(job(B, 1100))
    assert prefill.queue_length("short").requests == 1
    assert plan(prefill).length == "short"
    assert prefill.length_class(B) == "short"


def test_a_prompt_whose_prefix_was_evicted_meanwhile_becomes_long() -> None:
    """1000 cached tokens fill 62 of 80 blocks; the two prompts before it take 32."""
    prefill, _ = worker(num_blocks=80)
    compute(prefill, job(A, 1000))
    for each in (job(C, 250, shared=0), job(D, 256, shared=0), job(B, 1100, shared=1000)):
        prefill.enqueue(each)
    assert prefill.queue_length("short").requests == 3
    batch = plan(prefill)
    assert [chunk.request_id for chunk in batch.chunks] == [C, D]
    for request_id in prefill.computed(batch):
        prefill.release(request_id)
    assert prefill.queue_length("long").requests == 1
    batch = plan(prefill)
    assert batch.length == prefill.length_class(B) == "long"
    assert batch.chunks[0].start == 48 * BLOCK_SIZE


def test_a_prompt_whose_prefix_came_meanwhile_becomes_short() -> None:
    prefill, _ = worker()
    prefill.enqueue(job(A, 1000))
    batch = plan(prefill)
    prefill.enqueue(job(B, 1050))
    assert prefill.queue_length("long").requests == 2
    prefill.computed(batch)
    for request_id in prefill.computed(plan(prefill)):
        prefill.release(request_id)
    assert prefill.queue_length("long").requests == 1
    batch = plan(prefill)
    assert [(c.request_id, c.start, c.num_tokens) for c in batch.chunks] == [("b", 992, 58)]
    assert batch.length == "short"


def test_a_prompt_does_not_compute_what_the_same_batch_computes_for_another() -> None:
    prefill, _ = worker()
    chunks = compute(prefill, job(A, 120, shared=96), job(B, 130, shared=96), job(C, 20, shared=0))
    assert chunks == [("a", 0, 120), ("c", 0, 20), ("b", 96, 34)]


def test_a_prompt_does_not_wait_for_a_block_that_costs_less_than_a_step() -> None:
    prefill, _ = worker()
    assert compute(prefill, job(A, 20), job(B, 20)) == [("a", 0, 20), ("b", 0, 20)]


def test_what_a_cancelled_prompt_computed_is_kept() -> None:
    prefill, cache = worker()
    prefill.enqueue(job(A, 1000))
    batch = plan(prefill)
    prefill.release(A)
    prefill.computed(batch)
    assert (cache.num_free, cache.num_cached) == (1000, 32)
    assert compute(prefill, job(B, 600)) == [("b", 512, 88)]


def test_blocks_of_a_conversation_that_returns_are_kept_longer() -> None:
    prefill, cache = worker(num_blocks=20)
    compute(prefill, job(A, 96, returning=True), job(B, 96, shared=0))
    assert cache.num_cached == 12
    compute(prefill, job(C, 200, shared=0))  # 13 blocks: evicts 5
    assert compute(prefill, job(D, 100)) == [("d", 96, 4)]

"""The router's index of blocks: right against brute force, bounded, and quick to forget."""

import tracemalloc
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lengthwise_policy.kv.prefix_index import MAX_RETIRED_SLOTS, PrefixIndex
from lengthwise_policy.types import WorkerId

WORKERS = [WorkerId(f"w{number}") for number in range(4)]
CONTENTS = st.sets(st.integers(0, 9), max_size=6)
UPDATES = st.tuples(st.sampled_from(WORKERS), st.booleans(), CONTENTS, CONTENTS)
STEPS = st.lists(st.one_of(UPDATES, st.sampled_from(WORKERS)), max_size=30)


def leading(held: set[int], hashes: list[int]) -> int:
    return next((at for at, content in enumerate(hashes) if content not in held), len(hashes))


@given(steps=STEPS, walks=st.lists(st.lists(st.integers(0, 9), max_size=6), max_size=4))
def test_each_worker_is_credited_with_the_leading_blocks_it_holds(
    steps: list[tuple[WorkerId, bool, set[int], set[int]] | WorkerId], walks: list[list[int]]
) -> None:
    index = PrefixIndex(20)
    held: dict[WorkerId, set[int]] = {}
    for step in steps:
        if isinstance(step, str):
            index.forget(step)
            held.pop(step, None)
            continue
        worker_id, reset, added, removed = step
        removed = removed - added
        index.update(worker_id, reset=reset, added=added, removed=removed)
        before = set() if reset else held.get(worker_id, set())
        held[worker_id] = before - removed | added
    for hashes in walks:
        counts = {worker_id: leading(contents, hashes) for worker_id, contents in held.items()}
        expected = {worker_id: count for worker_id, count in counts.items() if count}
        assert index.matched_blocks(hashes) == expected


def test_a_reset_in_parts_replaces_what_was_held() -> None:
    index = PrefixIndex()
    (worker_id, other, *_) = WORKERS
    index.update(worker_id, reset=False, added=[1, 2, 3], removed=[])
    index.update(other, reset=False, added=[1], removed=[])
    index.update(worker_id, reset=True, added=[3], removed=[])
    index.update(worker_id, reset=False, added=[4], removed=[])
    assert index.matched_blocks([1]) == {other: 1}
    assert index.matched_blocks([3, 4, 5]) == {worker_id: 2}


def test_workers_that_come_and_go_find_nothing_of_those_before_them() -> None:
    index = PrefixIndex()
    index.update(WORKERS[0], reset=True, added=range(5), removed=[])
    for number in range(3 * MAX_RETIRED_SLOTS):
        worker_id = WorkerId(f"short-lived-{number}")
        index.update(worker_id, reset=True, added=[1000 + number], removed=[])
        assert index.matched_blocks([1000 + number]) == {worker_id: 1}
        index.update(worker_id, reset=False, added=[0], removed=[])
        assert index.matched_blocks([0, 1]) == {WORKERS[0]: 2, worker_id: 1}
        index.forget(worker_id)
    assert index.num_blocks < 5 + MAX_RETIRED_SLOTS
    assert len(index._workers) <= 2 + MAX_RETIRED_SLOTS


def test_the_contents_reported_and_asked_for_last_are_remembered() -> None:
    index = PrefixIndex(8)
    worker_id = WORKERS[0]
    for content in range(8):
        index.update(worker_id, reset=False, added=[content], removed=[])
    assert index.num_blocks == 8
    assert index.matched_blocks([0, 1]) == {worker_id: 2}
    index.update(worker_id, reset=False, added=range(100, 104), removed=[])
    assert index.num_blocks <= 8
    assert index.matched_blocks([0, 1]) == {worker_id: 2}
    assert index.matched_blocks([2]) == {}
    index.update(worker_id, reset=False, added=[], removed=[0])
    assert index.matched_blocks([0, 1]) == {}


def test_a_content_not_heard_of_for_long_keeps_its_workers_when_another_gets_it() -> None:
    index = PrefixIndex(8)
    index.update(WORKERS[0], reset=False, added=range(5), removed=[])
    index.update(WORKERS[1], reset=False, added=[0], removed=[])
    assert index.matched_blocks([0]) == {WORKERS[0]: 1, WORKERS[1]: 1}
    assert index.num_blocks == 5


@pytest.mark.slow
def test_a_full_index_of_256_workers_stays_within_its_memory() -> None:
    """Measured: 80 bytes per block on one worker each, 125 bytes on two each."""
    random = Random(1)
    index = PrefixIndex(100_000)
    tracemalloc.start()
    try:
        for batch in range(550):
            contents = [random.getrandbits(64) for _ in range(200)]
            for holder in (batch % 256, (batch + 31) % 256):
                worker_id = WorkerId(f"w{holder}")
                index.update(worker_id, reset=False, added=contents, removed=[])
            assert index.num_blocks <= 100_000
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 20e6
    assert index.matched_blocks(contents) == {
        WorkerId(f"w{holder}"): 200 for holder in (549 % 256, 580 % 256)
    }


def test_an_index_without_room_is_refused() -> None:
    with pytest.raises(ValueError, match="max_blocks: expected at least 2, got 1"):
        PrefixIndex(1)

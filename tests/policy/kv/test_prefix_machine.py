"""PrefixCache against a plain model: takes, growth, publications and releases in any order."""

from collections.abc import Callable, Sequence
from typing import TypeVar

import pytest
from harness.block_integrity import check_cache
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from lengthwise_policy.kv.blocks import blocks_for
from lengthwise_policy.kv.prefix_cache import BlockHash, PrefixCache, block_hashes, short_hash

Answer = TypeVar("Answer")

NUM_BLOCKS = 8
BLOCK_SIZE = 2
RETURNING_SHARE = 0.375
MAX_RETURNING = 3


class Request:
    """One owner of blocks, with the names of the contents it computes or found."""

    def __init__(self, block_ids: tuple[int, ...], hashes: list[BlockHash]) -> None:
        self.block_ids = block_ids
        self.hashes = hashes


class PrefixCacheMachine(RuleBasedStateMachine):
    """The model: who uses a block, which contents are published, and in which order blocks rest."""

    def __init__(self) -> None:
        super().__init__()
        self.cache = PrefixCache(NUM_BLOCKS, max_returning_share=RETURNING_SHARE)
        self.twin = PrefixCache(NUM_BLOCKS, max_returning_share=RETURNING_SHARE)
        self.requests: list[Request] = []
        self.empty = set(range(NUM_BLOCKS))
        self.published: dict[BlockHash, int] = {}
        self.resting: list[tuple[int, bool]] = []  # evictable (block, returning), oldest first
        self.returns: set[int] = set()
        self.memory: dict[int, object] = {}  # what was written last into a block
        self.reported: set[int] = set()

    def both(self, call: Callable[[PrefixCache], Answer]) -> Answer:
        """Asks the twin the same, which must decide the same."""
        answer = call(self.cache)
        assert call(self.twin) == answer
        return answer

    def users(self, block_id: int) -> int:
        return sum(block_id in request.block_ids for request in self.requests)

    def matched(self, hashes: Sequence[BlockHash]) -> list[int]:
        held = []
        for name in hashes:
            if name not in self.published:
                break
            held.append(self.published[name])
        return held

    def evict(self, num_blocks: int) -> None:
        for _ in range(num_blocks):
            ordinary = [entry for entry in self.resting if not entry[1]]
            crowded = len(self.resting) - len(ordinary) > MAX_RETURNING
            victim = self.resting[0] if crowded or not ordinary else ordinary[0]
            self.resting.remove(victim)
            self.returns.discard(victim[0])
            self.empty.add(victim[0])
            self.published = {
                name: block for name, block in self.published.items() if block != victim[0]
            }

    def hand_out(self, fresh: tuple[int, ...]) -> None:
        self.evict(max(0, len(fresh) - len(self.empty)))
        assert self.empty.issuperset(fresh)
        self.empty -= set(fresh)

    @rule(tokens=st.lists(st.integers(0, 1), min_size=1, max_size=10), spare=st.integers(0, 2))
    def take(self, tokens: list[int], spare: int) -> None:
        full = block_hashes(tokens, BLOCK_SIZE, b"model")
        usable = full[: (len(tokens) - 1) // BLOCK_SIZE]
        num_blocks = blocks_for(len(tokens), BLOCK_SIZE) + spare
        shared = self.matched(usable)
        resting = [entry for entry in self.resting if entry[0] not in shared]
        taken = self.both(lambda cache: cache.take(usable, num_blocks))
        if num_blocks - len(shared) > len(self.empty) + len(resting):
            assert taken is None
            return
        assert taken is not None
        assert taken.num_shared == len(shared)
        assert list(taken.block_ids[: len(shared)]) == shared
        assert len(set(taken.block_ids)) == len(taken.block_ids) == num_blocks
        self.returns -= {entry[0] for entry in self.resting if entry[0] in shared}
        self.resting = resting
        self.hand_out(taken.block_ids[len(shared) :])
        names = [*full, *(object() for _ in range(num_blocks - len(full)))]
        for block_id, name in list(zip(taken.block_ids, names, strict=True))[len(shared) :]:
            self.memory[block_id] = name
        self.requests.append(Request(taken.block_ids, full))

    @precondition(lambda self: self.requests)
    @rule(pick=st.integers(0), num_blocks=st.integers(1, 3))
    def extend(self, pick: int, num_blocks: int) -> None:
        request = self.requests[pick % len(self.requests)]
        fresh = self.both(lambda cache: cache.extend(num_blocks))
        if num_blocks > len(self.empty) + len(self.resting):
            assert fresh is None
            return
        assert fresh is not None
        assert len(set(fresh)) == num_blocks
        self.hand_out(fresh)
        for block_id in fresh:
            self.memory[block_id] = object()
        request.block_ids += fresh

    @precondition(lambda self: self.requests)
    @rule(pick=st.integers(0))
    def publish(self, pick: int) -> None:
        request = self.requests[pick % len(self.requests)]
        self.both(lambda cache: cache.publish(request.block_ids, request.hashes))
        for block_id, name in zip(request.block_ids, request.hashes, strict=False):
            if name not in self.published and block_id not in self.published.values():
                self.published[name] = block_id

    @precondition(lambda self: self.requests)
    @rule(pick=st.integers(0), returning=st.booleans())
    def release(self, pick: int, returning: bool) -> None:
        request = self.requests.pop(pick % len(self.requests))
        self.both(lambda cache: cache.release(iter(request.block_ids), returning=returning))
        for block_id in reversed(request.block_ids):
            if returning:
                self.returns.add(block_id)
            if self.users(block_id):
                continue
            if block_id in self.published.values():
                self.resting.append((block_id, block_id in self.returns))
            else:
                self.returns.discard(block_id)
                self.empty.add(block_id)

    @precondition(lambda self: self.requests)
    @rule(pick=st.integers(0), wrong=st.integers(-2, NUM_BLOCKS + 1))
    def release_with_a_wrong_block(self, pick: int, wrong: int) -> None:
        held = self.requests[pick % len(self.requests)].block_ids
        free = not 0 <= wrong < NUM_BLOCKS or self.users(wrong) == 0
        released = [*held, wrong] if free else [*held, held[0]]
        for cache in (self.cache, self.twin):
            with pytest.raises(ValueError, match=r"given back twice|foreign block|not in use"):
                cache.release(released)

    @rule()
    def tell(self) -> None:
        events = self.both(PrefixCache.take_events)
        before = set(self.reported)
        if events is not None:
            assert not set(events.added) & set(events.removed)
            self.reported = self.reported - set(events.removed) | set(events.added)
            assert self.reported != before
        assert self.reported == {short_hash(name) for name in self.published}
        assert self.cache.take_events() is None

    @invariant()
    def nothing_leaks(self) -> None:
        check_cache(self.cache)
        used = {block for request in self.requests for block in request.block_ids}
        assert self.cache.num_cached == len(self.resting)
        assert self.cache.num_free == NUM_BLOCKS - len(used) == len(self.empty) + len(self.resting)

    @invariant()
    def no_sequence_loses_content(self) -> None:
        for request in self.requests:
            found = [self.memory[block] for block in request.block_ids[: len(request.hashes)]]
            assert found == request.hashes
            assert self.cache.match(request.hashes) == len(self.matched(request.hashes))
        for name, block_id in self.published.items():
            assert self.memory[block_id] == name

    def teardown(self) -> None:
        for request in self.requests:
            self.cache.release(request.block_ids)
        assert self.cache.num_free == NUM_BLOCKS
        assert self.cache.extend(NUM_BLOCKS) is not None
        assert self.cache.num_cached == 0


TestPrefixCacheMachine = PrefixCacheMachine.TestCase

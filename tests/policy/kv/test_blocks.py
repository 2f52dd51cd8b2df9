"""BlockPool: nothing leaks, nothing is handed out twice, and requests get few runs."""

from itertools import accumulate, pairwise

import pytest
from harness.block_integrity import check_pool
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from lengthwise_policy.kv.blocks import BlockPool, blocks_for, consecutive_runs, kv_slots

NUM_BLOCKS = 40


class BlockPoolMachine(RuleBasedStateMachine):
    """Allocates and releases in any order; the model is the set of free ids."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = BlockPool(NUM_BLOCKS)
        self.free = set(range(NUM_BLOCKS))
        self.held: list[tuple[int, ...]] = []

    def fewest_runs(self, num_blocks: int) -> int:
        lengths = sorted(
            (length for _, length in consecutive_runs(sorted(self.free))), reverse=True
        )
        return 1 + sum(total < num_blocks for total in accumulate(lengths))

    @rule(num_blocks=st.integers(1, NUM_BLOCKS + 2))
    def allocate(self, num_blocks: int) -> None:
        block_ids = self.pool.allocate(num_blocks)
        if num_blocks > len(self.free):
            assert block_ids is None
            return
        assert block_ids is not None
        assert len(block_ids) == len(set(block_ids)) == num_blocks
        assert self.free.issuperset(block_ids)
        assert len(consecutive_runs(block_ids)) <= self.fewest_runs(num_blocks)
        self.free -= set(block_ids)
        self.held.append(block_ids)

    @precondition(lambda self: self.held)
    @rule(pick=st.integers(0), part=st.integers(1, NUM_BLOCKS), backwards=st.booleans())
    def release(self, pick: int, part: int, backwards: bool) -> None:
        held = self.held.pop(pick % len(self.held))
        returned, kept = held[:part], held[part:]
        self.pool.release(reversed(returned) if backwards else returned)
        self.free |= set(returned)
        if kept:
            self.held.append(kept)

    @precondition(lambda self: self.held)
    @rule(pick=st.integers(0), wrong=st.integers(-2, NUM_BLOCKS + 1))
    def release_with_a_wrong_block(self, pick: int, wrong: int) -> None:
        held = self.held[pick % len(self.held)]
        in_use = 0 <= wrong < NUM_BLOCKS and wrong not in self.free
        returned = [*held, held[0]] if in_use else [*held, wrong]
        with pytest.raises(ValueError, match=r"given back twice|foreign block"):
            self.pool.release(returned)

    @invariant()
    def nothing_leaks(self) -> None:
        check_pool(self.pool)
        assert self.pool.num_free == len(self.free)

    def teardown(self) -> None:
        for held in self.held:
            self.pool.release(held)
        assert self.pool.num_free == NUM_BLOCKS
        assert self.pool.allocate(NUM_BLOCKS) == tuple(range(NUM_BLOCKS))


TestBlockPoolMachine = BlockPoolMachine.TestCase


@given(st.lists(st.integers(0, 30)))
def test_runs_join_to_the_ids_and_no_two_of_them_could_be_one(block_ids: list[int]) -> None:
    runs = consecutive_runs(block_ids)
    assert [block for start, length in runs for block in range(start, start + length)] == block_ids
    assert all(start + length != after for (start, length), (after, _) in pairwise(runs))


@pytest.mark.parametrize(
    ("num_tokens", "max_new_tokens", "blocks"),
    [
        pytest.param(1, 1, 1, id="one token in, one out"),
        pytest.param(16, 1, 1, id="the only new token needs no slot"),
        pytest.param(16, 2, 2, id="the last of two needs none, the first does"),
        pytest.param(1, 16, 1, id="slots 0 to 15"),
        pytest.param(1, 17, 2, id="slots 0 to 16"),
        pytest.param(100, 28, 8, id="127 slots"),
        pytest.param(100, 29, 8, id="128 slots"),
        pytest.param(100, 30, 9, id="129 slots"),
    ],
)
def test_worst_case_blocks_are_exact(num_tokens: int, max_new_tokens: int, blocks: int) -> None:
    assert blocks_for(kv_slots(num_tokens, max_new_tokens), block_size=16) == blocks


def test_the_smallest_run_that_fits_is_taken() -> None:
    pool = BlockPool(20)
    pool.allocate(20)
    pool.release(range(6))
    pool.release(range(8, 11))
    assert pool.allocate(3) == (8, 9, 10)
    assert pool.allocate(4) == (0, 1, 2, 3)


@pytest.mark.parametrize("num_blocks", [0, -1])
def test_a_count_below_one_is_refused(num_blocks: int) -> None:
    with pytest.raises(ValueError, match="num_blocks: expected at least 1"):
        BlockPool(num_blocks)
    with pytest.raises(ValueError, match="num_blocks: expected at least 1"):
        BlockPool(1).allocate(num_blocks)


def test_the_integrity_check_notices_a_lost_block() -> None:
    pool = BlockPool(8)
    pool._in_use[3] = 1
    with pytest.raises(AssertionError):
        check_pool(pool)

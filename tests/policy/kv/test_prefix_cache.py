"""Names of blocks, and which contents the prefix cache keeps."""

import pytest
from harness.block_integrity import check_cache
from hypothesis import given
from hypothesis import strategies as st

from lengthwise_policy.kv.prefix_cache import (
    BlockEvents,
    BlockHash,
    PrefixCache,
    Taken,
    block_hashes,
    short_hash,
)

SALT = b"0123456789abcdef"
TOKENS = st.lists(st.integers(0, 2), max_size=12)


def chain(first_token: int, num_blocks: int) -> list[BlockHash]:
    """Names of a prompt that has nothing in common with those of other first tokens."""
    return block_hashes([first_token] + [0] * (num_blocks - 1), 1, SALT)


def keep(
    cache: PrefixCache, hashes: list[BlockHash], *, returning: bool = False
) -> tuple[int, ...]:
    """Takes, publishes and releases a prompt whose every block is full."""
    taken = cache.take(hashes, len(hashes))
    assert taken is not None
    cache.publish(taken.block_ids, hashes)
    cache.release(taken.block_ids, returning=returning)
    return taken.block_ids


@given(one=TOKENS, other=TOKENS, salts=st.sampled_from([(SALT, SALT), (SALT, b"another model")]))
def test_names_are_equal_as_far_as_model_and_all_tokens_are(
    one: list[int], other: list[int], salts: tuple[bytes, bytes]
) -> None:
    left, right = (block_hashes(*each) for each in ((one, 2, salts[0]), (other, 2, salts[1])))
    assert (len(left), len(right)) == (len(one) // 2, len(other) // 2)
    for block, (a, b) in enumerate(zip(left, right, strict=False)):
        tokens = slice((block + 1) * 2)
        assert (a == b) == (salts[0] == salts[1] and one[tokens] == other[tokens])


@given(tokens=TOKENS, known=st.integers(0, 6))
def test_known_names_are_continued(tokens: list[int], known: int) -> None:
    names = block_hashes(tokens, 2, SALT)
    known = min(known, len(names))
    assert block_hashes(tuple(tokens), 2, SALT, names[:known]) == names


def test_known_names_are_believed_and_not_computed_again() -> None:
    known = [BlockHash(bytes(16))]
    names = block_hashes([1, 2, 3, 4], 2, SALT, known)
    assert names[0] == known[0]
    assert names[1] != block_hashes([1, 2, 3, 4], 2, SALT)[1]


def test_more_known_names_than_full_blocks_are_refused() -> None:
    names = block_hashes([1, 2, 3, 4], 2, SALT)
    with pytest.raises(ValueError, match="at most the 1 full blocks of 3 tokens, got 2"):
        block_hashes([1, 2, 3], 2, SALT, names)


def test_names_never_change_between_versions() -> None:
    """Routers and workers of two versions serve together while one replaces the other."""
    names = block_hashes([1, 2, 151_935], 1, b"model")
    assert [len(name) for name in names] == [16, 16, 16]
    assert [f"{short_hash(name):016x}" for name in names] == [
        "8d6028b87986b139",
        "8507ba2719d99c1a",
        "8696dd7681c7edb5",
    ]


def test_a_second_prompt_shares_what_it_has_in_common() -> None:
    cache = PrefixCache(8)
    prompt = chain(1, 3)
    first = cache.take(prompt, 4)
    assert first == Taken(block_ids=(0, 1, 2, 3), num_shared=0)
    assert cache.match(prompt) == 0
    cache.publish(first.block_ids, prompt)
    second = cache.take(prompt[:2], 3)
    assert second == Taken(block_ids=(0, 1, 4), num_shared=2)
    cache.release(first.block_ids)
    assert (cache.num_free, cache.num_cached) == (5, 1)
    assert cache.take([], 6) is None
    assert cache.take([], 5) == Taken(block_ids=(5, 6, 7, 2, 3), num_shared=0)
    assert cache.match(prompt) == 2


def test_blocks_found_do_not_count_as_room_for_the_rest() -> None:
    cache = PrefixCache(4)
    prompt = chain(1, 3)
    keep(cache, prompt)
    assert cache.take(prompt, 5) is None
    assert (cache.num_free, cache.num_cached, cache.match(prompt)) == (4, 3, 3)
    assert cache.take(prompt, 4) == Taken(block_ids=(0, 1, 2, 3), num_shared=3)


def test_only_as_many_blocks_as_are_missing_are_evicted() -> None:
    cache = PrefixCache(6)
    keep(cache, chain(1, 4))
    cache.take([], 3)
    assert cache.num_cached == 3


def test_the_tail_of_a_chain_goes_before_its_head() -> None:
    cache = PrefixCache(4)
    prompt = chain(1, 4)
    keep(cache, prompt)
    for left in (3, 2, 1):
        assert cache.extend(1) is not None
        assert cache.match(prompt) == left


def test_what_was_used_last_goes_last() -> None:
    cache = PrefixCache(6)
    for first_token in (1, 2, 3):
        keep(cache, chain(first_token, 2))
    keep(cache, chain(1, 2))
    cache.extend(2)
    assert [cache.match(chain(token, 2)) for token in (1, 2, 3)] == [2, 0, 2]


def test_blocks_of_conversations_that_return_outlive_newer_ones() -> None:
    cache = PrefixCache(6)
    keep(cache, chain(1, 2), returning=True)
    keep(cache, chain(2, 2))
    keep(cache, chain(3, 2))
    cache.extend(4)
    assert [cache.match(chain(token, 2)) for token in (1, 2, 3)] == [2, 0, 0]
    assert cache.extend(2) is not None
    assert cache.match(chain(1, 2)) == 0


@pytest.mark.parametrize(
    ("share", "needed", "survivors"),
    [
        pytest.param(0.0, 6, [0, 0, 0, 2], id="no share: plain LRU"),
        pytest.param(0.25, 4, [0, 0, 2, 2], id="the older ones beyond a quarter go by age"),
        pytest.param(0.25, 6, [0, 0, 2, 0], id="the newest quarter goes last"),
        pytest.param(1.0, 2, [2, 2, 2, 0], id="no bound: the ordinary go first"),
        pytest.param(1.0, 4, [0, 2, 2, 0], id="no bound: then the returning, by age"),
    ],
)
def test_returning_blocks_beyond_their_share_are_ordinary(
    share: float, needed: int, survivors: list[int]
) -> None:
    """Of eight blocks, prompts 0 to 2 hold two each and return; the newest, 3, does not."""
    cache = PrefixCache(8, max_returning_share=share)
    for first_token in (0, 1, 2):
        keep(cache, chain(first_token, 2), returning=True)
    keep(cache, chain(3, 2))
    cache.extend(needed)
    assert [cache.match(chain(token, 2)) for token in range(4)] == survivors


def test_one_returning_user_of_a_shared_block_is_enough_and_its_end_frees_it() -> None:
    cache = PrefixCache(4)
    prompt = chain(1, 2)
    one = cache.take(prompt, 2)
    assert one is not None
    cache.publish(one.block_ids, prompt)
    other = cache.take(prompt, 2)
    assert other is not None
    cache.release(one.block_ids, returning=True)
    cache.release(other.block_ids)
    keep(cache, chain(2, 2))
    cache.extend(2)
    assert cache.match(prompt) == 2
    keep(cache, prompt)
    assert len(cache._returning) == 0


def test_a_block_does_not_inherit_the_hint_of_its_last_owner() -> None:
    cache = PrefixCache(4)
    taken = cache.take([], 4)
    assert taken is not None
    cache.release(taken.block_ids, returning=True)
    keep(cache, chain(1, 2), returning=True)
    keep(cache, chain(2, 2))
    cache.extend(2)
    assert (cache.match(chain(1, 2)), cache.match(chain(2, 2))) == (2, 0)


def test_a_content_computed_twice_stays_where_it_was_published_first() -> None:
    cache = PrefixCache(4)
    prompt = chain(1, 1)
    one, other = cache.take(prompt, 1), cache.take(prompt, 1)
    assert one is not None
    assert other is not None
    cache.publish(one.block_ids, prompt)
    cache.publish(other.block_ids, prompt)
    cache.publish(one.block_ids, chain(2, 1))
    assert cache.match(chain(2, 1)) == 0
    assert cache.take(prompt, 1) == Taken(block_ids=one.block_ids, num_shared=1)
    cache.release(other.block_ids)
    assert (cache.num_free, cache.num_cached) == (3, 0)


def test_without_reuse_it_is_a_block_pool() -> None:
    cache = PrefixCache(4, enabled=False)
    prompt = chain(1, 2)
    keep(cache, prompt)
    assert (cache.match(prompt), cache.num_cached, cache.num_free) == (0, 0, 4)
    assert cache.take_events() is None


def test_events_tell_the_difference_since_the_last_call() -> None:
    cache = PrefixCache(2)
    one, other = chain(1, 1), chain(2, 2)
    keep(cache, one)
    assert cache.take_events() == BlockEvents(added=(short_hash(one[0]),), removed=())
    keep(cache, other)
    keep(cache, one)
    events = cache.take_events()
    assert events is not None
    assert (events.added, events.removed) == ((short_hash(other[0]),), ())
    assert cache.take_events() is None


@pytest.mark.parametrize("block_id", [-1, 4, 3], ids=["negative", "too high", "free"])
def test_a_block_that_is_not_in_use_can_be_neither_released_nor_published(block_id: int) -> None:
    cache = PrefixCache(4)
    taken = cache.take([], 3)
    assert taken is not None
    with pytest.raises(ValueError, match=r"foreign block|not in use"):
        cache.release([*taken.block_ids, block_id])
    with pytest.raises(ValueError, match=r"foreign block|not in use"):
        cache.publish([*taken.block_ids, block_id], chain(1, 4))
    assert cache.num_free == 1
    assert cache.take_events() is None


def test_more_names_than_blocks_are_refused() -> None:
    cache = PrefixCache(4)
    taken = cache.take([], 1)
    assert taken is not None
    with pytest.raises(ValueError, match="at most one per block, got 2 for 1"):
        cache.publish(taken.block_ids, chain(1, 2))


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_a_share_outside_0_to_1_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match="max_returning_share: expected a share between 0 and 1"):
        PrefixCache(4, max_returning_share=share)


def test_the_integrity_check_notices_a_lost_reference_and_a_lost_name() -> None:
    cache = PrefixCache(4)
    prompt = chain(1, 2)
    taken = cache.take(prompt, 2)
    assert taken is not None
    cache.publish(taken.block_ids, prompt)
    cache._references[0] = 0
    with pytest.raises(AssertionError, match="blocks leaked"):
        check_cache(cache)
    cache._references[0] = 1
    del cache._block_of[prompt[1]]
    with pytest.raises(AssertionError):
        check_cache(cache)

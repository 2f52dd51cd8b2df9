"""Whether a cache's several views of its blocks agree. Both checks walk over all blocks."""

from lengthwise_policy.kv.blocks import BlockPool, consecutive_runs
from lengthwise_policy.kv.prefix_cache import PrefixCache


def check_pool(pool: BlockPool) -> None:
    """All views of the free blocks are the same."""
    free = [block_id for block_id, in_use in enumerate(pool._in_use) if not in_use]
    runs = consecutive_runs(free)
    assert pool.num_free == len(free)
    assert pool._length_at == dict(runs)
    assert pool._start_before == {start + length: start for start, length in runs}
    assert pool._by_length == sorted((length, start) for start, length in runs)


def check_cache(cache: PrefixCache) -> None:
    """Every block is in exactly one state."""
    check_pool(cache._pool)
    in_use = sum(1 for references in cache._references if references > 0)
    evictable = [*cache._ordinary, *cache._returning]
    assert cache._pool.num_free + len(evictable) + in_use == cache.num_blocks, "blocks leaked"
    for queue in (cache._ordinary, cache._returning):
        for block_id in queue:
            assert cache._references[block_id] < 0
            assert cache._names[block_id] is not None
            assert cache._queue_of(block_id) is queue
    named = {name: block for block, name in enumerate(cache._names) if name is not None}
    assert named == cache._block_of

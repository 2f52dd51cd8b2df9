"""What prefix reuse costs besides the model: microseconds on one core, and bytes per known block.

Run `python -m decisions.prefix`; it prints a table and appends to
benchmarks/data/prefix.csv. Prompts of 140 tokens (a short turn) and 32,768; the cache has 100,000
blocks, all with content, so that every fresh block is an eviction; the index has a million blocks
of 256 workers.
"""

import tracemalloc
from collections.abc import Callable
from functools import partial
from random import Random
from statistics import median, quantiles
from time import perf_counter

from rows import append_rows

from lengthwise_policy.kv.prefix_cache import (
    BlockEvents,
    BlockHash,
    PrefixCache,
    block_hashes,
    short_hash,
)
from lengthwise_policy.kv.prefix_index import PrefixIndex
from lengthwise_policy.types import WorkerId
from lengthwise_runtime.block_log import BlockLog

BLOCK_SIZE = 16
NUM_BLOCKS = 100_000
INDEXED_BLOCKS = 1_000_000
NUM_WORKERS = 256
PROMPTS = (140, 32_768)
SALT = b"0123456789abcdef"

Row = dict[str, object]


def timed(what: str, conditions: str, repeats: int, call: Callable[[], object]) -> Row:
    taken = []
    for _ in range(repeats):
        start = perf_counter()
        call()
        taken.append((perf_counter() - start) * 1e6)
    return row(what, conditions, "us", median(taken), quantiles(taken, n=100)[98])


def row(what: str, conditions: str, unit: str, middle: float, p99: float) -> Row:
    return {
        "what": what,
        "conditions": conditions,
        "unit": unit,
        "median": f"{middle:.1f}",
        "p99": f"{p99:.1f}",
    }


def prompt(random: Random, num_tokens: int) -> list[int]:
    return [random.randrange(150_000) for _ in range(num_tokens)]


def hashing(random: Random) -> list[Row]:
    tokens = prompt(random, 1_000)
    return [timed("block_hashes", "1000 tokens", 1000, lambda: block_hashes(tokens, 16, SALT))]


def serve(cache: PrefixCache, hashes: list[BlockHash], num_blocks: int) -> None:
    """The whole life of a request in the cache."""
    taken = cache.take(hashes, num_blocks)
    assert taken is not None
    cache.publish(taken.block_ids, hashes)
    cache.release(taken.block_ids)


def full_cache(random: Random) -> PrefixCache:
    """Every block has content, of prompts of 1 to 100 blocks released one after the other."""
    cache = PrefixCache(NUM_BLOCKS)
    while cache.num_cached < NUM_BLOCKS - 100:
        hashes = block_hashes(prompt(random, 16 * random.randint(1, 100)), BLOCK_SIZE, SALT)
        serve(cache, hashes, len(hashes))
    cache.take_events()
    return cache


def cache_rows(random: Random) -> list[Row]:
    rows = []
    for num_tokens in PROMPTS:
        repeats = 1000 if num_tokens < 1000 else 40
        num_blocks = -(-num_tokens // BLOCK_SIZE)
        cache = full_cache(random)
        again = block_hashes(prompt(random, num_tokens), BLOCK_SIZE, SALT)
        serve(cache, again, num_blocks)
        shared = partial(serve, cache, again, num_blocks)
        rows.append(
            timed("take, publish, release", f"{num_tokens} tokens, all held", repeats, shared)
        )
        others = [
            block_hashes(prompt(random, num_tokens), BLOCK_SIZE, SALT) for _ in range(repeats)
        ]
        fresh = partial(lambda cache, left, count: serve(cache, left.pop(), count), cache, others)
        rows.append(
            timed(
                "take, publish, release",
                f"{num_tokens} tokens, none held, all evicted",
                repeats,
                partial(fresh, num_blocks),
            )
        )
    return rows


def index_rows(random: Random) -> list[Row]:
    """Every content is on two workers; one prompt of 2,048 blocks is on all, to varied depth."""
    tracemalloc.start()
    index = PrefixIndex(INDEXED_BLOCKS)
    workers = [WorkerId(f"worker-{number}") for number in range(NUM_WORKERS)]
    for batch in range(INDEXED_BLOCKS // 1000 - 3):
        contents = [random.getrandbits(64) for _ in range(1000)]
        for holder in (batch, batch + 31):
            index.update(workers[holder % NUM_WORKERS], reset=False, added=contents, removed=[])
        del contents
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    rows = [
        row("memory of the index", "two workers each", "bytes/block", held / index.num_blocks, 0)
    ]
    hashes = [short_hash(name) for name in block_hashes(prompt(random, 32_768), BLOCK_SIZE, SALT)]
    for number, worker_id in enumerate(workers):
        index.update(worker_id, reset=False, added=hashes[: 8 * (number + 1)], removed=[])
    for num_tokens in PROMPTS:
        walk = partial(index.matched_blocks, hashes[: num_tokens // BLOCK_SIZE])
        conditions = f"{num_tokens} tokens, {NUM_WORKERS} workers hold some"
        rows.append(timed("matched_blocks", conditions, 200, walk))
    unknown = [random.getrandbits(64) for _ in range(8)]
    walk = partial(index.matched_blocks, unknown)
    rows.append(timed("matched_blocks", "140 tokens, none held", 200, walk))
    for worker_id in workers[:63]:
        index.forget(worker_id)
    start = perf_counter()
    index.forget(workers[63])
    sweep = (perf_counter() - start) * 1e6
    rows.append(row("forget", "the 64th worker, which clears all 64", "us", sweep, sweep))
    return rows


def log_rows(random: Random) -> list[Row]:
    log = BlockLog()
    log.append(BlockEvents(added=tuple(random.getrandbits(64) for _ in range(100_000)), removed=()))
    _, cursor = log.since(None)
    while cursor.unsent:
        _, cursor = log.since(cursor)
    change = BlockEvents(added=tuple(random.getrandbits(64) for _ in range(500)), removed=())
    log.append(change)
    return [
        timed("BlockLog.append", "500 contents", 200, lambda: log.append(change)),
        timed("BlockLog.since", "500 changes of 100,000 held", 200, lambda: log.since(cursor)),
        timed("BlockLog.since", "new watcher, 100,000 held", 50, lambda: log.since(None)),
    ]


def main() -> None:
    random = Random(1)
    rows = [*hashing(random), *cache_rows(random), *index_rows(random), *log_rows(random)]
    for each in rows:
        print(f"{each['what']:<24}{each['conditions']:<44}", end="")
        print(f"{each['median']:>10}{each['p99']:>10} {each['unit']}")
    append_rows("prefix", rows)


if __name__ == "__main__":
    main()

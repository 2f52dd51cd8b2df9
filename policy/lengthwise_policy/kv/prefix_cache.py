"""Blocks that keep their content after use: requests that begin alike share and find them again.

A block is named by its tokens and all before them, with the model's fingerprint in front, so equal
names mean equal KV. Every block is in exactly one of three states:

    empty      in the BlockPool beneath; content unknown
    in use     one or more references; shared where published, never evicted, never rewritten
    evictable  published and unused; in the order in which blocks may be evicted

Invariant: a published block keeps its content until it is evicted, and only evictable blocks are.
Eviction is LRU over releases, with a 1-bit prediction: blocks of conversations that will probably
return go last. As in "Paging with Succinct Predictions" (Antoniadis et al., ICML 2023, arXiv
2210.02775) a wrong bit must cost little: where such blocks fill more than their share, the oldest
ones beyond it are evicted in plain LRU order.
"""

from array import array
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import blake2b
from itertools import groupby
from operator import attrgetter
from sys import byteorder
from typing import NewType

from lengthwise_policy.checks import require_at_least
from lengthwise_policy.kv.blocks import BlockPool
from lengthwise_policy.kv.eviction_queue import EvictionQueue

BlockHash = NewType("BlockHash", bytes)
"""16 bytes: of a block's tokens and all before them."""

_TOKEN, _HEAD = "I", "Q"
_HASH_BYTES = 16


def block_hashes(
    token_ids: Sequence[int], block_size: int, salt: bytes, known: Sequence[BlockHash] = ()
) -> list[BlockHash]:
    """Hashes of the full blocks of `token_ids`, each chained over the one before, `salt` first.

    `known` are the hashes of the first blocks, computed before; the result begins with them.
    Raises ValueError when `known` are more than the full blocks.
    """
    num_blocks = len(token_ids) // block_size
    if len(known) > num_blocks:
        raise ValueError(
            f"known: expected hashes of at most the {num_blocks} full blocks of {len(token_ids)} "
            f"tokens, got {len(known)}"
        )
    hashes = list(known)
    previous: bytes = hashes[-1] if hashes else blake2b(salt, digest_size=_HASH_BYTES).digest()
    tokens = array(_TOKEN, token_ids[len(known) * block_size : num_blocks * block_size])
    content = tokens.tobytes()
    stride = block_size * tokens.itemsize
    for start in range(0, len(content), stride):
        block = content[start : start + stride]
        previous = blake2b(previous + block, digest_size=_HASH_BYTES).digest()
        hashes.append(BlockHash(previous))
    return hashes


def short_hash(block_hash: BlockHash) -> int:
    """Of one block."""
    return short_hashes((block_hash,))[0]


def short_hashes(hashes: Collection[BlockHash]) -> tuple[int, ...]:
    """The first 64 bits of each: what events and the router's index carry.

    Two of a million blocks share one with probability 3e-8; the router then expects a hit too many.
    """
    heads = array(_HEAD, b"".join(hashes))[::2]
    if byteorder == "little":
        heads.byteswap()
    return tuple(heads)


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """Blocks of one request in the order of its tokens; the first `num_shared` hold their KV."""

    block_ids: tuple[int, ...]
    num_shared: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockEvents:
    """Short hashes of contents that came and went; none is in both."""

    added: tuple[int, ...]
    removed: tuple[int, ...]


class PrefixCache:
    """Gives out the blocks of one KV cache, again with their content where it is asked for.

    Everything is decided by the order of the calls alone. Not enabled, it is a plain block pool.
    """

    def __init__(
        self, num_blocks: int, *, enabled: bool = True, max_returning_share: float = 0.5
    ) -> None:
        if not 0 <= max_returning_share <= 1:
            raise ValueError(
                f"max_returning_share: expected a share between 0 and 1, got {max_returning_share}"
            )
        self.num_blocks = num_blocks
        self._pool = BlockPool(num_blocks)
        self._enabled = enabled
        self._max_returning = int(max_returning_share * num_blocks)
        self._references = [0] * num_blocks  # below 0: evictable
        self._names: list[BlockHash | None] = [None] * num_blocks
        self._block_of: dict[BlockHash, int] = {}
        self._returns = bytearray(num_blocks)  # some user since the block was last unused returns
        self._ordinary = EvictionQueue(self._references)
        self._returning = EvictionQueue(self._references)
        self._releases = 0
        self._added: dict[BlockHash, None] = {}  # in order: neighbours are looked up together
        self._removed: dict[BlockHash, None] = {}

    @property
    def num_free(self) -> int:
        """Blocks that can be had now: empty and evictable ones."""
        return self._pool.num_free + self.num_cached

    @property
    def num_cached(self) -> int:
        """Evictable blocks: content that no request uses."""
        return len(self._ordinary) + len(self._returning)

    def match(self, hashes: Sequence[BlockHash]) -> int:
        """How many leading blocks are held, in use or not. Changes nothing."""
        return len(self._matched(hashes))

    def in_use(self, hashes: Sequence[BlockHash]) -> int:
        """How many leading blocks requests hold now. Changes nothing."""
        count = 0
        for name in hashes:
            block_id = self._block_of.get(name)
            if block_id is None or self._references[block_id] <= 0:
                break
            count += 1
        return count

    def take(self, hashes: Sequence[BlockHash], num_blocks: int) -> Taken | None:
        """Takes `num_blocks` blocks: the leading ones that are held are shared, the rest fresh.

        None, and nothing has changed, when too few can be had. Pass at most
        `(num_tokens - 1) // block_size` hashes, so that one token at least is left to compute.
        """
        require_at_least("num_blocks", num_blocks, 1)
        shared = self._matched(hashes[:num_blocks])
        unused = [block_id for block_id in shared if self._references[block_id] < 0]
        num_fresh = num_blocks - len(shared)
        if num_fresh > self.num_free - len(unused):
            return None
        for block_id in unused:
            self._queue_of(block_id).leave(block_id)
            self._returns[block_id] = False
        for block_id in shared:
            self._references[block_id] += 1
        fresh = self._fresh(num_fresh) if num_fresh else ()
        return Taken(block_ids=(*shared, *fresh), num_shared=len(shared))

    def extend(self, num_blocks: int) -> tuple[int, ...] | None:
        """Fresh blocks for a request that grows; None, and nothing has changed, when too few."""
        require_at_least("num_blocks", num_blocks, 1)
        if num_blocks > self.num_free:
            return None
        return self._fresh(num_blocks)

    def publish(self, block_ids: Sequence[int], hashes: Sequence[BlockHash]) -> None:
        """From now on block i holds the content named `hashes[i]`, never to be written again.

        Blocks beyond the hashes stay private. A content that is held already keeps its block, and
        a published block its name. Raises ValueError, and changes nothing, for blocks not in use.
        """
        if len(hashes) > len(block_ids):
            raise ValueError(
                f"hashes: expected at most one per block, got {len(hashes)} for {len(block_ids)}"
            )
        block_ids = block_ids[: len(hashes)]
        self._check_in_use(block_ids)
        if not self._enabled:
            return
        names, block_of = self._names, self._block_of
        if any(map(names.__getitem__, block_ids)) or not block_of.keys().isdisjoint(hashes):
            pairs = zip(block_ids, hashes, strict=True)
            new = {name: each for each, name in pairs if not names[each] and name not in block_of}
            block_ids, hashes = list(new.values()), list(new)
        block_of.update(zip(hashes, block_ids, strict=True))
        for block_id, name in zip(block_ids, hashes, strict=True):
            names[block_id] = name
        _note(hashes, self._removed, self._added)

    def release(self, block_ids: Iterable[int], *, returning: bool = False) -> None:
        """Gives up one reference of each block; `returning`: their conversation will go on.

        A block that no request uses then is evictable if published, else empty. The last block
        counts as the oldest, since a chain is of no use without its head. Raises ValueError, and
        changes nothing, for a block that is foreign, free or named twice.
        """
        released = list(block_ids)
        self._check_in_use(released)
        if len(set(released)) != len(released):
            raise ValueError(f"a block is given back twice in one call: {released}")
        references, names, returns = self._references, self._names, self._returns
        empty, unused = [], []
        for block_id in released:
            left = references[block_id] = references[block_id] - 1
            if not left and names[block_id] is None:
                empty.append(block_id)
                continue
            if returning:
                returns[block_id] = True
            if not left:
                unused.append(block_id)
        if empty:
            self._pool.release(empty)
        runs = [(hint, list(run)) for hint, run in groupby(unused, returns.__getitem__)]
        for is_returning, run in reversed(runs):
            self._releases += len(run)
            (self._returning if is_returning else self._ordinary).add(run, self._releases)

    def take_events(self) -> BlockEvents | None:
        """What came and went since the last call, or None when nothing did."""
        if not self._added and not self._removed:
            return None
        events = BlockEvents(added=short_hashes(self._added), removed=short_hashes(self._removed))
        self._added.clear()
        self._removed.clear()
        return events

    def _matched(self, hashes: Sequence[BlockHash]) -> list[int]:
        matched: list[int] = []
        with suppress(KeyError):  # of the first that is not held; those before it stay
            matched.extend(map(self._block_of.__getitem__, hashes))
        return matched

    def _fresh(self, num_blocks: int) -> tuple[int, ...]:
        """Takes empty blocks, evicting as many as are missing; enough are known to be there."""
        missing = num_blocks - self._pool.num_free
        evicted = self._evict(missing) if missing > 0 else []
        if len(evicted) == 1 == num_blocks:  # as a request grows
            fresh: tuple[int, ...] | None = tuple(evicted)
        else:
            self._pool.release(evicted)
            fresh = self._pool.allocate(num_blocks)
        assert fresh is not None
        for block_id in fresh:
            self._references[block_id] = 1
        return fresh

    def _evict(self, num_blocks: int) -> list[int]:
        """Forgets the contents of the blocks that are to go first."""
        evicted: list[int] = []
        while len(evicted) < num_blocks:
            evicted += self._first_to_go(num_blocks - len(evicted))
        removed = [name for each in evicted if (name := self._names[each])]
        for block_id, name in zip(evicted, removed, strict=True):
            self._names[block_id] = None
            del self._block_of[name]
        _note(removed, self._added, self._removed)
        return evicted

    def _first_to_go(self, most: int) -> list[int]:
        """Takes from the evictable blocks, one at least, up to `most` that follow one another."""
        queue = self._ordinary or self._returning
        if self._ordinary and len(self._returning) > self._max_returning:
            queue, most = min(self._ordinary, self._returning, key=attrgetter("oldest")), 1
        taken = queue.pop(most)
        for block_id in taken if queue is self._returning else ():
            self._returns[block_id] = False
        return taken

    def _queue_of(self, block_id: int) -> EvictionQueue:
        return self._returning if self._returns[block_id] else self._ordinary

    def _check_in_use(self, block_ids: Sequence[int]) -> None:
        references, most = self._references.__getitem__, self.num_blocks
        with suppress(IndexError):
            if min(block_ids, default=0) >= 0 < min(map(references, block_ids), default=1):
                return
        for block_id in block_ids:
            if not 0 <= block_id < most:
                raise ValueError(f"foreign block: expected ids in [0, {most}), got {block_id}")
        free = next(each for each in block_ids if references(each) <= 0)
        raise ValueError(f"block {free} is not in use: it is free already")


def _note(
    contents: Sequence[BlockHash], cancelled: dict[BlockHash, None], noted: dict[BlockHash, None]
) -> None:
    """Notes events, or takes back their opposites where those were not reported yet."""
    opposites = cancelled.keys() & contents if cancelled else ()
    noted.update(dict.fromkeys(contents))
    for name in opposites:
        del cancelled[name], noted[name]

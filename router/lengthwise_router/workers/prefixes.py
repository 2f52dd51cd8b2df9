"""Which workers have how much of a prompt already: the blocks that workers name in their statuses,
and the same names computed for each prompt.

Nothing is hashed unless some worker names blocks, and nothing is hashed twice. The index is walked
once per request, and again only when the request has grown or the index has changed (it waited for
admission, or an attempt failed). A long prompt is hashed a slice at a time, so that other requests
go on meanwhile.
"""

import asyncio
from collections.abc import Mapping, Sequence

from lengthwise_policy.kv.prefix_cache import BlockHash, block_hashes, short_hashes
from lengthwise_policy.kv.prefix_index import PrefixIndex
from lengthwise_policy.kv.salts import block_salt
from lengthwise_policy.types import WorkerId
from lengthwise_wire.v1 import worker_pb2

SLICE_TOKENS = 4096
"""Hashing 4,096 tokens in blocks of 16 takes 0.5 ms."""

# (model fingerprint, block size): workers of one kind name equal blocks alike.
Naming = tuple[str, int]


class PromptPrefix:
    """Of one request: its blocks' names as far as computed, and what the last walk found."""

    __slots__ = ("_adapter", "_hashes", "_salt", "_short", "cached_tokens", "walked")

    def __init__(self, salt: bytes = b"", adapter: str = "") -> None:
        """`salt` and `adapter`: the request's."""
        self._salt = salt
        self._adapter = adapter
        self.walked: tuple[int, int] | None = None  # (changes of the index, tokens), at the walk
        self.cached_tokens: Mapping[WorkerId, int] = {}
        self._hashes: dict[Naming, list[BlockHash]] = {}
        self._short: dict[Naming, list[int]] = {}

    def beginning(self, num_tokens: int) -> "PromptPrefix":
        """Of another request with the same salt and adapter that begins with the same tokens."""
        other = PromptPrefix(self._salt, self._adapter)
        for naming, hashes in self._hashes.items():
            count = num_tokens // naming[1]
            other._hashes[naming] = hashes[:count]
            other._short[naming] = self._short[naming][:count]
        return other

    async def hashes(self, token_ids: Sequence[int], naming: Naming) -> Sequence[int]:
        """Short hashes of the full blocks, the one with the last token excepted: that token is
        computed in any case."""
        fingerprint, block_size = naming
        salt = block_salt(fingerprint, self._salt, self._adapter)
        hashes = self._hashes.setdefault(naming, [])
        short = self._short.setdefault(naming, [])
        num_tokens = (len(token_ids) - 1) // block_size * block_size
        while len(hashes) * block_size < num_tokens:
            known = len(hashes)
            end = min(num_tokens, (known + SLICE_TOKENS // block_size) * block_size)
            named = block_hashes(token_ids[:end], block_size, salt, hashes)
            hashes += named[known:]
            short += short_hashes(named[known:])
            if end < num_tokens:
                await asyncio.sleep(0)
        return short


class Prefixes:
    """The router's index, and the workers with blocks in it."""

    def __init__(self) -> None:
        self._index = PrefixIndex()
        self._namings: dict[WorkerId, Naming] = {}
        self._distinct: tuple[Naming, ...] = ()
        self._changes = 0

    def update(self, status: worker_pb2.WorkerStatus) -> None:
        """Takes over what a status reports of blocks, if anything."""
        if not status.HasField("block_events"):
            return
        worker_id = WorkerId(status.worker_id)
        naming = status.model_fingerprint, status.block_size
        if self._namings.get(worker_id) != naming:
            self._namings[worker_id] = naming
            self._count()
        events = status.block_events
        if events.reset or events.added or events.removed:
            self._changes += 1
        self._index.update(
            worker_id, reset=events.reset, added=events.added, removed=events.removed
        )

    def forget(self, worker_id: WorkerId) -> None:
        """The worker is lost."""
        if self._namings.pop(worker_id, None) is not None:
            self._index.forget(worker_id)
            self._count()

    async def cached_tokens(
        self, token_ids: Sequence[int], prefix: PromptPrefix
    ) -> Mapping[WorkerId, int]:
        """Tokens of the beginning that each worker has, in whole blocks; those with none are left
        out."""
        if prefix.walked != (self._changes, len(token_ids)):
            cached: dict[WorkerId, int] = {}
            for naming in self._distinct:
                hashes = await prefix.hashes(token_ids, naming)
                for worker_id, num_blocks in self._index.matched_blocks(hashes).items():
                    if self._namings.get(worker_id) == naming:
                        cached[worker_id] = num_blocks * naming[1]
            prefix.walked = self._changes, len(token_ids)
            prefix.cached_tokens = cached
        return prefix.cached_tokens

    def _count(self) -> None:
        self._changes += 1
        self._distinct = tuple(sorted(set(self._namings.values())))

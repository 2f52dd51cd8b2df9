"""Which of a model's KV heads each rank of a tensor-parallel worker holds, and all ranks' caches.

Invariant: block ids mean the same in every rank's cache, so a worker has one block pool however
many ranks it has.
"""

from dataclasses import dataclass, replace

from lengthwise_engine.errors import CacheSizeError
from lengthwise_engine.kv.cache import KVCache, SharedKV, cache_bytes
from lengthwise_engine.kv.layout import KVLayout


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadShard:
    """The share of rank `rank` of `size`: heads [first_head, first_head + num_heads).

    Where there are more ranks than heads, neighbouring ranks hold the same one.
    """

    rank: int
    size: int
    num_kv_heads: int

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.size:
            raise ValueError(f"rank must lie in [0, {self.size}), got {self.rank}")
        if self.num_kv_heads % self.size and self.size % self.num_kv_heads:
            raise ValueError(
                f"{self.num_kv_heads} KV heads cannot be shared equally by {self.size} ranks;"
                " one number has to be a multiple of the other"
            )

    @property
    def first_head(self) -> int:
        return self.rank * self.num_kv_heads // self.size

    @property
    def num_heads(self) -> int:
        return max(1, self.num_kv_heads // self.size)


@dataclass(frozen=True, slots=True, kw_only=True)
class KVShards:
    """The caches of all ranks of one worker, for another process to map.

    `layout` is the whole model's, with all its KV heads; `shares` are in the order of the ranks,
    one for a worker without tensor parallelism. They are valid as long as the caches live, which
    the owner of the caches sees to.
    """

    layout: KVLayout
    num_blocks: int
    device_type: str  # "cpu" | "cuda", of all caches
    shares: tuple[SharedKV, ...]

    def __post_init__(self) -> None:
        if not self.shares:
            raise ValueError("KVShards needs the share of at least one rank, got none")
        for rank, shared in enumerate(self.shares):
            expected = cache_bytes(self.rank_layout(rank), self.num_blocks)
            if shared.num_bytes != expected:
                raise CacheSizeError(
                    f"rank {rank} of {len(self.shares)} shares a KV cache of {shared.num_bytes}"
                    f" bytes, expected {expected} for {self.num_blocks} blocks of"
                    f" {self.rank_layout(rank)}"
                )

    @classmethod
    def of(cls, cache: KVCache) -> "KVShards":
        """One cache with all heads."""
        return cls(
            layout=cache.layout,
            num_blocks=cache.num_blocks,
            device_type=cache.tensor.device.type,
            shares=(cache.share(),),
        )

    @property
    def file_descriptors(self) -> tuple[int, ...]:
        """What a process has to inherit to `attach`."""
        descriptors = (shared.file_descriptor for shared in self.shares)
        return tuple(each for each in descriptors if each is not None)

    def heads(self, rank: int) -> HeadShard:
        return HeadShard(rank=rank, size=len(self.shares), num_kv_heads=self.layout.num_kv_heads)

    def rank_layout(self, rank: int) -> KVLayout:
        return replace(self.layout, num_kv_heads=self.heads(rank).num_heads)

    def attach(self) -> tuple[KVCache, ...]:
        """Map every rank's cache."""
        return tuple(
            KVCache.attach(self.rank_layout(rank), self.num_blocks, shared)
            for rank, shared in enumerate(self.shares)
        )

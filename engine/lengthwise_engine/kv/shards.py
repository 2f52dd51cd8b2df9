"""Which of a model's KV heads each rank of a tensor-parallel worker holds."""

from dataclasses import dataclass


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

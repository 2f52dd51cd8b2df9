"""How the KV cache lies in memory, as a value that two workers can compare before they exchange it.

Invariant: everything that changes the bytes of a block is a field here, and nothing else is.
"""

import hashlib
from dataclasses import astuple, dataclass
from typing import Final, Literal

from lengthwise_checkpoint.spec import ModelSpec
from lengthwise_kernels.dispatch import SCALE_BYTES

ITEM_BYTES: Final = {"float32": 4, "bfloat16": 2, "float16": 2, "int8": 1}

KVDtype = Literal["auto", "int8"]
"""What keys and values are stored in; auto: the type that the model computes in."""

_EXCHANGE: Final = 3
"""Counts the ways in which workers have agreed on how blocks get from one to the other."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KVLayout:
    """The shape of one model's keys and values; `block_size` is in tokens. In int8 each head's key
    and value has its scale beside it (`lengthwise_kernels.reference.kv8`)."""

    num_layers: int
    num_kv_heads: int
    head_dim: int
    block_size: int
    dtype: str

    def __post_init__(self) -> None:
        for name in ("num_layers", "num_kv_heads", "head_dim", "block_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"KVLayout.{name} must be at least 1, got {getattr(self, name)}")
        if self.dtype not in ITEM_BYTES:
            raise ValueError(
                f"KVLayout.dtype must be one of {list(ITEM_BYTES)}, got {self.dtype!r}"
            )

    @classmethod
    def of(cls, spec: ModelSpec, *, block_size: int, dtype: str) -> "KVLayout":
        """The layout of a model whose keys and values are stored in `dtype`."""
        return cls(
            num_layers=spec.num_layers,
            num_kv_heads=spec.num_kv_heads,
            head_dim=spec.head_dim,
            block_size=block_size,
            dtype=dtype,
        )

    @property
    def head_width(self) -> int:
        """Numbers that one head's key takes, or its value."""
        return self.head_dim + (SCALE_BYTES if self.dtype == "int8" else 0)

    @property
    def block_bytes(self) -> int:
        """Bytes of one block of one layer, keys and values together."""
        return 2 * self.block_size * self.num_kv_heads * self.head_width * ITEM_BYTES[self.dtype]

    def num_blocks_for(self, num_tokens: int) -> int:
        """How many blocks `num_tokens` tokens of one sequence need."""
        return -(-num_tokens // self.block_size)

    def fingerprint(self, device_type: str) -> str:
        """16 hex digits, equal for two layouts exactly when their blocks are interchangeable, by
        workers that know the same way to do it: on a GPU and on a CPU they know none."""
        value = repr((_EXCHANGE, device_type, astuple(self)))
        return hashlib.sha256(value.encode()).hexdigest()[:16]

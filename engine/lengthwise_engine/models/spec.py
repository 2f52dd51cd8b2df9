"""What a checkpoint's config.json says, as values that cannot be half read.

The rule: after a spec exists nobody looks into config.json again, and nothing in a spec depends on
the spelling the checkpoint used.
"""

from dataclasses import dataclass

from lengthwise_engine.kv.layout import KVLayout


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """What every model tells the rest of the system.

    `context_length` is the most tokens a sequence may have, prompt and output together. `dtype` is
    the one the checkpoint declares ("float32", "bfloat16" or "float16").
    """

    model_type: str
    context_length: int
    vocab_size: int
    eos_token_ids: tuple[int, ...]
    num_layers: int
    num_kv_heads: int
    head_dim: int
    dtype: str

    def kv_layout(self, *, block_size: int, dtype: str) -> KVLayout:
        """The layout of this model's KV cache when it computes in `dtype`."""
        return KVLayout(
            num_layers=self.num_layers,
            num_kv_heads=self.num_kv_heads,
            head_dim=self.head_dim,
            block_size=block_size,
            dtype=dtype,
        )

"""What is known of a model that transformers computes, found by running it without weights."""

from dataclasses import dataclass

from lengthwise_checkpoint.spec import ModelSpec
from lengthwise_engine.kv.layout import ITEM_BYTES


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionCall:
    """One call of the attention in a forward pass, which is one layer of the cache.

    `window` as in `DecoderSpec.windows`. Sizes are per head; values may be narrower than keys.
    """

    num_heads: int
    num_kv_heads: int
    key_size: int
    value_size: int
    window: int | None
    scale: float
    cap: float | None
    has_sinks: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignSpec(ModelSpec):
    """A layer of the cache for each of `calls`, with the widest head of them.

    `step_width` is how many numbers a layer holds per token at a time, about. Of a tied head,
    which `num_parameters` do not count, there may be a copy.
    """

    calls: tuple[AttentionCall, ...]
    num_parameters: int
    num_tied_parameters: int
    step_width: int

    @property
    def windows(self) -> tuple[int | None, ...]:
        return tuple(call.window for call in self.calls)

    @property
    def is_scored(self) -> bool:
        """Whether some layer changes its scores before their softmax."""
        return any(call.cap is not None or call.has_sinks for call in self.calls)

    def weight_bytes(self, dtype: str, *, is_head_copied: bool) -> int:
        count = self.num_parameters + self.num_tied_parameters * is_head_copied
        return count * ITEM_BYTES[dtype]

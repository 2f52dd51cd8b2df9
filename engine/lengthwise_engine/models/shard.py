"""Which part of a decoder each rank of a tensor-parallel worker computes.

After Megatron-LM (arXiv:1909.08053, section 3): projections that widen (q, k, v; gate, up) are
cut by their outputs and those that narrow (output, down) by their inputs, so that a layer needs two
sums over the ranks and nothing else; the head is cut by the vocabulary; norms and the embedding are
whole everywhere.
"""

from dataclasses import dataclass, replace

from lengthwise_checkpoint.errors import UnsupportedModel
from lengthwise_checkpoint.spec import DecoderSpec, ExpertsSpec
from lengthwise_engine.kv.shards import HeadShard


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShard:
    """The share of rank `rank` of `size` of the model `whole`.

    Ranges are of query heads, KV heads, neurons between gate_up and down (of each expert: ranks
    share all experts, and choose them alike), and the vocabulary. Where
    the vocabulary is no multiple of `size`, the last ranks have fewer rows of the head.
    """

    whole: DecoderSpec
    rank: int = 0
    size: int = 1

    def __post_init__(self) -> None:
        """Raises `UnsupportedModel` for a model that so many ranks cannot share equally."""
        if not 0 <= self.rank < self.size:
            raise ValueError(f"rank must lie in [0, {self.size}), got {self.rank}")
        whole = self.whole
        shared = {"num_attention_heads": whole.num_heads}
        if not all(whole.routed):
            shared["intermediate_size"] = whole.intermediate_size
        if whole.experts is not None:
            shared["the experts' intermediate_size"] = whole.experts.intermediate_size
        for name, count in shared.items():
            if count % self.size:
                raise UnsupportedModel(
                    f"{name} {count} is no multiple of tensor_parallel_size {self.size}; choose a"
                    f" divisor of {', '.join(f'{size} ({key})' for key, size in shared.items())}"
                )
        if whole.num_kv_heads % self.size and self.size % whole.num_kv_heads:
            raise UnsupportedModel(
                f"tensor_parallel_size {self.size} is neither a divisor nor a multiple of"
                f" num_key_value_heads {whole.num_kv_heads}; choose one that is"
            )

    @property
    def part(self) -> DecoderSpec:
        """What this rank computes, as a spec of its own."""
        return replace(
            self.whole,
            num_heads=self.whole.num_heads // self.size,
            num_kv_heads=len(self.kv_heads),
            intermediate_size=self.whole.intermediate_size // self.size,
            experts=self._experts,
        )

    @property
    def query_heads(self) -> range:
        return self._share(self.whole.num_heads)

    @property
    def kv_heads(self) -> range:
        heads = HeadShard(rank=self.rank, size=self.size, num_kv_heads=self.whole.num_kv_heads)
        return range(heads.first_head, heads.first_head + heads.num_heads)

    @property
    def query_numbers(self) -> range:
        """Of `query_heads`, head after head."""
        return _scaled(self.query_heads, self.whole.head_dim)

    @property
    def kv_numbers(self) -> range:
        """Of `kv_heads`, head after head."""
        return _scaled(self.kv_heads, self.whole.head_dim)

    @property
    def neurons(self) -> range:
        return self._share(self.whole.intermediate_size)

    @property
    def expert_neurons(self) -> range:
        """Of each expert."""
        return (
            range(0)
            if self.whole.experts is None
            else self._share(self.whole.experts.intermediate_size)
        )

    @property
    def vocabulary(self) -> range:
        return self._share(self.whole.vocab_size)

    @property
    def _experts(self) -> ExpertsSpec | None:
        whole = self.whole.experts
        if whole is None:
            return None
        return replace(whole, intermediate_size=whole.intermediate_size // self.size)

    def _share(self, count: int) -> range:
        each = -(-count // self.size)
        return range(min(self.rank * each, count), min((self.rank + 1) * each, count))


def _scaled(heads: range, head_dim: int) -> range:
    return range(heads.start * head_dim, heads.stop * head_dim)

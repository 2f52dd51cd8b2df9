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

    Ranges are of query heads, KV heads, neurons between gate_up and down, and the vocabulary. Where
    the vocabulary is no multiple of `size`, the last ranks have fewer rows of the head.
    Ranks choose experts alike. With `expert_parallel` each rank has some of the experts, else
    some neurons of each.
    """

    whole: DecoderSpec
    rank: int = 0
    size: int = 1
    expert_parallel: bool = False

    def __post_init__(self) -> None:
        """Raises `UnsupportedModel` for a model that so many ranks cannot share equally."""
        if not 0 <= self.rank < self.size:
            raise ValueError(f"rank must lie in [0, {self.size}), got {self.rank}")
        whole = self.whole
        shared = {"num_attention_heads": whole.num_heads}
        if not all(whole.routed):
            shared["intermediate_size"] = whole.intermediate_size
        if self.expert_parallel:
            self._check_experts()
        elif whole.experts is not None:
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
    def experts(self) -> range:
        """Those that this rank computes."""
        count = 0 if self.whole.experts is None else self.whole.experts.count
        if not self.expert_parallel:
            return range(count)
        # Rank 0 has as many as any other.
        first, end = (-(-rank * count // self.size) for rank in (self.rank, self.rank + 1))
        return range(first, end)

    @property
    def expert_neurons(self) -> range:
        """Of each of its experts."""
        size = 0 if self.whole.experts is None else self.whole.experts.intermediate_size
        return range(size) if self.expert_parallel else self._share(size)

    @property
    def vocabulary(self) -> range:
        return self._share(self.whole.vocab_size)

    @property
    def _experts(self) -> ExpertsSpec | None:
        whole = self.whole.experts
        if whole is None:
            return None
        return replace(whole, intermediate_size=len(self.expert_neurons))

    def _check_experts(self) -> None:
        experts = self.whole.experts
        if experts is None:
            raise UnsupportedModel("expert_parallel: the model has no experts; leave it unset")
        if experts.count < self.size:
            raise UnsupportedModel(
                f"expert_parallel: {experts.count} experts are fewer than tensor_parallel_size"
                f" {self.size}; use fewer ranks"
            )

    def _share(self, count: int) -> range:
        each = -(-count // self.size)
        return range(min(self.rank * each, count), min((self.rank + 1) * each, count))


def _scaled(heads: range, head_dim: int) -> range:
    return range(heads.start * head_dim, heads.stop * head_dim)

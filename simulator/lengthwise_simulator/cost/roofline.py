"""What steps take by arithmetic: a model's matrices, its KV and a GPU's data sheet.

Of each step, the matrices take what is longer of computing and of reading weights; attention
what is longer of computing and of reading KV; tensor parallelism two sums over all ranks a layer.
The shares of peak that kernels reach are assumptions of the size that is usual on these GPUs: where
steps have been measured, use them (`calibrate`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from lengthwise_checkpoint.spec import DecoderSpec
from lengthwise_simulator.cost.gpus import GpuModel
from lengthwise_simulator.cost.profile import Chunk
from lengthwise_simulator.errors import SimulationError

FLOPS_SHARE: Final = 0.6
MEMORY_SHARE: Final = 0.8
PEER_SHARE: Final = 0.7
STEP_SECONDS: Final = 0.002  # of the host, and of the launch of graphs
SUM_SECONDS: Final = 10e-6  # of the latency of one sum over ranks
TAKEN_SHARE: Final = 0.9  # of a GPU's memory is taken
WORKSPACE_BYTES: Final = 3e9  # of each GPU

_ITEM_BYTES: Final = {"float32": 4, "bfloat16": 2, "float16": 2}


# No slots: a property is cached.
@dataclass(frozen=True)
class RooflineCosts:
    """Of a worker of `ranks` GPUs."""

    spec: DecoderSpec
    gpu: GpuModel
    ranks: int = 1

    def __post_init__(self) -> None:
        heads = (self.spec.num_heads, self.spec.num_kv_heads)
        if self.ranks < 1 or any(count % self.ranks for count in heads):
            raise SimulationError(
                f"tensor parallelism: got {self.ranks}, expected a divisor of the model's"
                f" {heads[0]} heads and {heads[1]} KV heads"
            )
        if self.spec.experts is not None:
            raise SimulationError(
                f"got {self.spec.model_type}, a mixture of experts, expected a dense model: which"
                " experts a step reads is not simulated"
            )

    @property
    def item_bytes(self) -> int:
        """Of a number of weights and KV; checkpoints in float32 are computed in 16 bits."""
        return min(_ITEM_BYTES[self.spec.dtype], 2)

    @property
    def layer_weights(self) -> int:
        """Numbers in one layer's matrices."""
        spec = self.spec
        heads = spec.num_heads + 2 * spec.num_kv_heads
        attention = spec.hidden_size * spec.head_dim * (heads + spec.num_heads)
        return attention + 3 * spec.hidden_size * spec.intermediate_size

    @property
    def weight_bytes(self) -> int:
        """Of the whole model."""
        spec = self.spec
        item = self.item_bytes if spec.projections == "full" else 1
        tables = spec.vocab_size * spec.hidden_size * (1 if spec.tied_embeddings else 2)
        return spec.num_layers * self.layer_weights * item + tables * self.item_bytes

    @property
    def kv_bytes_per_token(self) -> int:
        """Of the whole model."""
        spec = self.spec
        return 2 * spec.num_layers * spec.num_kv_heads * spec.head_dim * self.item_bytes

    @property
    def kv_tokens(self) -> int:
        """That a worker's cache holds, beside weights and workspace; 0 where they do not fit."""
        free = self.ranks * (TAKEN_SHARE * self.gpu.memory_bytes - WORKSPACE_BYTES)
        return max(int((free - self.weight_bytes) // self.kv_bytes_per_token), 0)

    @property
    def link_bytes_per_second(self) -> float:
        """Of KV to a worker on another machine: every rank sends its own share."""
        return self.ranks * self.gpu.network_bytes_per_second

    def step_seconds(self, chunks: Sequence[Chunk], requests: int, context: int) -> float:
        tokens, pairs, read = requests, context, context
        for new, history in chunks:
            tokens += new
            pairs += new * history + new * (new + 1) // 2
            read += history + new
        if not tokens:
            return 0.0
        unit = self._seconds
        computing = tokens * unit.token + (requests + len(chunks)) * unit.head
        attention = max(pairs * unit.pair, read * unit.kv_token)
        return unit.step + max(computing, unit.weights) + attention + tokens * unit.sum_token

    @cached_property
    def _seconds(self) -> "_UnitSeconds":
        spec, ranks = self.spec, self.ranks
        head = spec.vocab_size * spec.hidden_size
        item = self.item_bytes if spec.projections == "full" else 1
        weights = spec.num_layers * self.layer_weights * item + head * self.item_bytes
        flops = ranks * self.gpu.flops * FLOPS_SHARE
        bandwidth = ranks * self.gpu.memory_bytes_per_second * MEMORY_SHARE
        sums = 2 * spec.num_layers if ranks > 1 else 0
        sent = 2 * (ranks - 1) / ranks * spec.hidden_size * self.item_bytes
        return _UnitSeconds(
            step=STEP_SECONDS + sums * SUM_SECONDS,
            token=2 * spec.num_layers * self.layer_weights / flops,
            head=2 * head / flops,
            weights=weights / bandwidth,
            pair=4 * spec.num_heads * spec.head_dim * spec.num_layers / flops,
            kv_token=self.kv_bytes_per_token / bandwidth,
            sum_token=sums * sent / (self.gpu.peer_bytes_per_second * PEER_SHARE),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _UnitSeconds:
    """What each part of a step takes, for one of its kind."""

    step: float  # whatever it has
    token: float  # of matrices
    head: float  # of the logits of one sampled token
    weights: float  # all of them, to be read once
    pair: float  # of a query and a key it sees
    kv_token: float  # whose KV is read
    sum_token: float  # of sums over ranks, as rings do them

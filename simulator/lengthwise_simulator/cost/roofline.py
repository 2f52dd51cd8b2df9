"""What steps take by arithmetic: a model's matrices, its KV and a GPU's data sheet.

Of each step, the matrices take what is longer of computing and of reading weights; attention
what is longer of computing and of reading KV; tensor parallelism two sums over all ranks a layer.
The shares of peak that kernels reach are assumptions of the size that is usual on these GPUs: where
steps have been measured, use them (`calibrate`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
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


@dataclass(frozen=True, slots=True)
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
        sampled = requests + len(chunks)
        return (
            STEP_SECONDS
            + self._matrices(tokens, sampled)
            + self._attention(pairs, read)
            + (self._sums(tokens) if self.ranks > 1 else 0.0)
        )

    def _matrices(self, tokens: int, sampled: int) -> float:
        spec = self.spec
        head = spec.vocab_size * spec.hidden_size
        flops = 2 * (tokens * spec.num_layers * self.layer_weights + sampled * head)
        item = self.item_bytes if spec.projections == "full" else 1
        read = spec.num_layers * self.layer_weights * item + head * self.item_bytes
        return max(self._computing(flops), self._reading(read))

    def _attention(self, pairs: int, read: int) -> float:
        """`pairs` of a query and a key it sees; `read`: tokens whose KV is read."""
        spec = self.spec
        flops = 4 * pairs * spec.num_heads * spec.head_dim * spec.num_layers
        return max(self._computing(flops), self._reading(read * self.kv_bytes_per_token))

    def _sums(self, tokens: int) -> float:
        """Two a layer, of every token's hidden state, as rings do them."""
        spec = self.spec
        num_bytes = tokens * spec.hidden_size * self.item_bytes
        moved = 2 * (self.ranks - 1) / self.ranks * num_bytes
        each = SUM_SECONDS + moved / (self.gpu.peer_bytes_per_second * PEER_SHARE)
        return 2 * spec.num_layers * each

    def _computing(self, flops: float) -> float:
        return flops / (self.ranks * self.gpu.flops * FLOPS_SHARE)

    def _reading(self, num_bytes: float) -> float:
        return num_bytes / (self.ranks * self.gpu.memory_bytes_per_second * MEMORY_SHARE)

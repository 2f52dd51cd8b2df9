"""One rank of a tensor-parallel worker: its share of model and cache.

Rank 0 and the processes of the others build their shares with the same code from the same
values, so that no two ranks can disagree about shapes.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from lengthwise_engine.kv.cache import KVCache
from lengthwise_engine.kv.layout import KVLayout
from lengthwise_engine.models.adapters.stack import AdapterStack, StackPlan
from lengthwise_engine.models.decoder import Decoder
from lengthwise_engine.models.decoder_loader import Quantization, read_spec
from lengthwise_engine.models.shard import ModelShard
from lengthwise_engine.models.weight_files import WeightFiles
from lengthwise_engine.models.weights import DecoderWeights, load_weights
from lengthwise_engine.runner.graph_recorder import CudaRecorder, Recorder
from lengthwise_engine.runner.graph_shapes import NO_GRAPHS, GraphPlan
from lengthwise_engine.runner.memory import check_graph_memory, loading_weights
from lengthwise_engine.runner.torch_runner import TorchRunner
from lengthwise_engine.tensor_parallel.group import RankGroup


@dataclass(frozen=True, slots=True, kw_only=True)
class RankPlan:
    """What rank `rank` of `size` computes, and how. `dtype` is the name of a type of torch's."""

    checkpoint: str
    device_type: str
    dtype: str
    rank: int
    size: int
    num_blocks: int
    block_size: int
    stall_seconds: float
    quantization: Quantization = "none"
    graphs: GraphPlan = NO_GRAPHS
    adapters: StackPlan | None = None
    expert_parallel: bool = False

    @property
    def device(self) -> torch.device:
        return torch.device("cpu") if self.device_type == "cpu" else torch.device("cuda", self.rank)

    def of(self, rank: int) -> "RankPlan":
        return replace(self, rank=rank)

    def shard(self) -> ModelShard:
        spec = read_spec(Path(self.checkpoint), self.quantization)
        return ModelShard(
            whole=spec,
            rank=self.rank,
            size=self.size,
            expert_parallel=self.expert_parallel,
        )

    def layout(self) -> KVLayout:
        """Of this rank's KV cache."""
        return KVLayout.of(self.shard().part, block_size=self.block_size, dtype=self.dtype)

    def load(self) -> DecoderWeights:
        """Raises `CheckpointError` for a checkpoint that cannot be served, `DeviceMemoryError` for
        one whose share is too large."""
        checkpoint = Path(self.checkpoint)
        with loading_weights(checkpoint, self.device):
            return load_weights(
                WeightFiles(checkpoint, hashed=self.rank == 0),
                self.shard(),
                device=self.device,
                dtype=getattr(torch, self.dtype),
            )

    def stack(self) -> AdapterStack | None:
        """What this rank has of adapters, none of which is there yet."""
        if self.adapters is None:
            return None
        return self.adapters.stack(self.shard(), self.device, getattr(torch, self.dtype))

    def meet(self, rendezvous: int) -> RankGroup:
        """Returns once all ranks are there; raises RuntimeError when they are not in time."""
        return RankGroup(
            rendezvous, self.rank, self.size, device=self.device, stall_seconds=self.stall_seconds
        )

    def runner(
        self,
        weights: DecoderWeights,
        cache: KVCache,
        group: RankGroup,
        recorder: Recorder | None = None,
        adapters: AdapterStack | None = None,
    ) -> TorchRunner:
        """Ready to compute; all ranks make theirs at the same time, because on GPUs the first steps
        are taken and graphs captured here. CPUs have no graphs but those of a `recorder`."""
        on_gpu = self.device.type == "cuda"
        if on_gpu and recorder is None:
            free_bytes = torch.cuda.mem_get_info(self.device)[0]
            check_graph_memory(cache, self.graphs.memory_bytes, free_bytes)
            recorder = CudaRecorder(self.device)
        model = Decoder(self.shard().part, weights, group, adapters=adapters)
        runner = TorchRunner(model, cache, recorder=recorder, graphs=self.graphs)
        if on_gpu:
            runner.warm_up()
        runner.capture_graphs()
        return runner

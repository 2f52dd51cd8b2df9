"""A deployment's shape: how many workers of how many GPUs do what."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from lengthwise_checkpoint.spec import DecoderSpec
from lengthwise_simulator.cluster.spec import ClusterPolicies, ClusterSpec, WorkerGroup
from lengthwise_simulator.cost.gpus import GpuModel
from lengthwise_simulator.cost.profile import CostProfile
from lengthwise_simulator.cost.roofline import RooflineCosts
from lengthwise_simulator.errors import SimulationError


@dataclass(frozen=True, slots=True, kw_only=True)
class DeploymentShape:
    """Without prefill workers it is aggregated: decode workers compute prompts in chunks."""

    prefill: int
    prefill_ranks: int
    decode: int
    decode_ranks: int

    @property
    def gpus(self) -> int:
        return self.prefill * self.prefill_ranks + self.decode * self.decode_ranks

    @property
    def is_aggregated(self) -> bool:
        return self.prefill == 0

    def __str__(self) -> str:
        decode = f"{self.decode} of {self.decode_ranks} GPU{'s' * (self.decode_ranks > 1)}"
        if self.is_aggregated:
            return f"aggregated, {decode}"
        prefill = f"{self.prefill} of {self.prefill_ranks} GPU{'s' * (self.prefill_ranks > 1)}"
        return f"prefill {prefill}, decode {decode}"

    def times(self, factor: int) -> "DeploymentShape":
        return replace(self, prefill=self.prefill * factor, decode=self.decode * factor)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelOnGpus:
    """`measured`: what steps of so many ranks took, in place of what is calculated for them; None
    where that was not measured."""

    spec: DecoderSpec
    gpu: GpuModel
    gpu_name: str
    measured: Callable[[int], CostProfile | None] | None = None

    def costs(self, ranks: int) -> RooflineCosts:
        """Calculated ones, which know memory and links too."""
        return RooflineCosts(self.spec, self.gpu, ranks)

    def step_costs(self, ranks: int) -> CostProfile:
        """What its steps are taken to take. Errors: SimulationError."""
        calculated = self.costs(ranks)
        measured = calculated if self.measured is None else self.measured(ranks)
        if measured is None:
            raise SimulationError(
                f"got a worker of {ranks} {self.gpu_name}, expected a number of them whose steps"
                " were measured; or leave the measurements away"
            )
        return measured

    def fitting_ranks(self, most: int) -> Iterator[int]:
        """Powers of two that divide the heads, and whose GPUs hold the model and a request."""
        ranks = 1
        while ranks <= min(most, self.spec.num_kv_heads, 8):
            divides = not self.spec.num_kv_heads % ranks and not self.spec.num_heads % ranks
            is_known = self.measured is None or self.measured(ranks) is not None
            if divides and is_known and self._holds_a_request(ranks):
                yield ranks
            ranks *= 2

    def _holds_a_request(self, ranks: int) -> bool:
        return self.costs(ranks).kv_tokens >= min(self.spec.context_length, 8192)

    def cluster(self, shape: DeploymentShape, policies: ClusterPolicies, seed: int) -> ClusterSpec:
        """Errors: SimulationError."""
        groups = [self._group(role, count, ranks) for role, count, ranks in _parts(shape) if count]
        return ClusterSpec(
            groups=tuple(groups),
            policies=policies,
            seed=seed,
            longest_prompt=min(self.spec.context_length, 32_768),
        )

    def _group(self, role: str, count: int, ranks: int) -> WorkerGroup:
        costs = self.costs(ranks)
        if not costs.kv_tokens:
            needed = costs.weight_bytes / 1e9
            raise SimulationError(
                f"the model does not fit: its weights have {needed:.0f} GB, {ranks} {self.gpu_name}"
                f" {ranks * self.gpu.memory_bytes / 1e9:.0f} GB, of which 0.9 are used; give a"
                " worker more GPUs, or larger ones"
            )
        return WorkerGroup(
            role="prefill" if role == "prefill" else "decode",
            count=count,
            costs=self.step_costs(ranks),
            kv_tokens=costs.kv_tokens,
            kv_bytes_per_token=costs.kv_bytes_per_token,
            link_bytes_per_second=costs.link_bytes_per_second,
            gpus=ranks,
        )


def _parts(shape: DeploymentShape) -> Iterator[tuple[str, int, int]]:
    yield "prefill", shape.prefill, shape.prefill_ranks
    yield "decode", shape.decode, shape.decode_ranks

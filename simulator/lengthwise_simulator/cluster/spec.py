"""What a cluster is made of, as it is asked for."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from math import inf

from lengthwise_policy.admission.admission import AdmissionPolicy
from lengthwise_policy.decode.policy import DecodePolicy
from lengthwise_policy.length_class import LengthClass
from lengthwise_policy.objectives import Objectives
from lengthwise_policy.placement.attempts import Attempts
from lengthwise_policy.placement.policy import PlacementPolicy
from lengthwise_policy.placement.strategies import DEFAULT_STRATEGY, STRATEGIES
from lengthwise_policy.prefill.policy import PrefillPolicy
from lengthwise_policy.types import Role
from lengthwise_simulator.cost.profile import CostProfile
from lengthwise_simulator.errors import SimulationError


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerGroup:
    """Workers that are alike."""

    role: Role
    count: int
    costs: CostProfile
    kv_tokens: int  # slots of the cache of each
    kv_bytes_per_token: int
    link_bytes_per_second: float  # of KV, in and out
    gpus: int = 1  # of each worker
    length_class: LengthClass | None = None
    start_seconds: float = 60.0  # of a pod that takes a failed one's place


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerFailure:
    """The process ends, with all that it holds; routers notice at once, and another pod starts."""

    at: float  # seconds
    worker: str  # its name, as `ClusterSpec.workers` has it


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterPolicies:
    """What operators set; the defaults are those that serve. Objectives are in `placement`."""

    strategy: str = DEFAULT_STRATEGY
    admission: AdmissionPolicy = field(default_factory=AdmissionPolicy)
    placement: PlacementPolicy = field(default_factory=PlacementPolicy)
    prefill: PrefillPolicy = field(default_factory=PrefillPolicy)
    decode: DecodePolicy = field(default_factory=DecodePolicy)
    prefix_caching: bool = True
    layerwise_tokens: int = 512  # as the prefill workers' key of that name
    piece_bytes: int = 4 << 20  # likewise
    max_attempts: int = 8  # as the routers' key of that name
    no_worker_seconds: float = 10.0  # likewise

    @property
    def objectives(self) -> Objectives:
        return self.placement.objectives

    def attempts(self) -> Attempts:
        """Of one request, none of them made."""
        return Attempts(max_attempts=self.max_attempts, patience_seconds=self.no_worker_seconds)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterSpec:
    """Groups may be of any mix. Without prefill workers, decode workers compute prompts in chunks
    beside their decodes: aggregated serving."""

    groups: tuple[WorkerGroup, ...]
    policies: ClusterPolicies = field(default_factory=ClusterPolicies)
    routers: int = 1
    block_size: int = 16
    status_seconds: float = 0.05  # workers report changes at most this often
    heartbeat_seconds: float = 0.5  # and when nothing has changed
    call_seconds: float = 0.0005  # one way between router and worker, and of a control message
    longest_prompt: int = 8192  # up to which workers have measured their costs
    failures: tuple[WorkerFailure, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        if not any(group.role == "decode" and group.count for group in self.groups):
            raise SimulationError("cluster: got no decode worker, expected at least one")
        has_prefill = any(group.role == "prefill" and group.count for group in self.groups)
        if not has_prefill and not self.policies.placement.local_prefill:
            raise SimulationError(
                "cluster: got no prefill worker, and decode workers that compute no prompts;"
                " expected some that do"
            )
        if self.policies.strategy not in STRATEGIES:
            raise SimulationError(
                f"strategy: got {self.policies.strategy!r}, expected one of {', '.join(STRATEGIES)}"
            )
        for group in self.groups:
            if group.count < 0 or group.gpus < 1 or group.link_bytes_per_second <= 0:
                raise SimulationError(
                    f"{group.role} workers: got {group.count} of {group.gpus} GPUs with links of"
                    f" {group.link_bytes_per_second:g} bytes/s, expected no number below 0"
                )
            if group.kv_tokens < self.block_size:
                raise SimulationError(
                    f"{group.role} workers: got room for {group.kv_tokens} tokens of KV, expected"
                    f" a block of {self.block_size} at least; the model does not fit: use more or"
                    " larger GPUs for a worker"
                )

        names = [name for name, _ in self.workers()]
        for failure in self.failures:
            if failure.worker not in names or not 0 <= failure.at < inf:
                raise SimulationError(
                    f"failure: got {failure.worker!r} at {failure.at:g} s, expected one of"
                    f" {', '.join(names)} and an instant from 0 on"
                )

    @property
    def gpus(self) -> int:
        return sum(group.count * group.gpus for group in self.groups)

    def workers(self) -> Iterator[tuple[str, WorkerGroup]]:
        """With their names."""
        for number, group in enumerate(self.groups):
            for index in range(group.count):
                yield f"{group.role}-{number}-{index:04d}", group

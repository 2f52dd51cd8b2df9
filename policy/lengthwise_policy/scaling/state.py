"""What scaling decides on and what it decides: pools, their pods, the work there is, the actions.

A pool is a Deployment of workers of one role. A pool may be flexible: its workers can serve the
other role too, so that roles are flipped (seconds) before pods are made (minutes).

Instants are seconds of the caller's clock.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from lengthwise_policy.cost.model import CostModel
from lengthwise_policy.length_class import LengthClass
from lengthwise_policy.types import Role

PoolName = str

PodPhase = Literal["ready", "starting", "unschedulable", "leaving"]
"""`starting`: scheduled, or waiting for it for a moment; `unschedulable`: nowhere to run, which
may last for ever; `leaving`: drains, and takes nothing new."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """What an operator has set of a pool."""

    name: PoolName
    role: Role
    length_class: LengthClass | None = None  # None: prompts of every length; prefill pools only
    min_replicas: int = 1  # 0: scaled to zero when nothing has arrived for a while
    max_replicas: int = 1
    flexible: bool = False  # its workers may serve the other role; then it has no length class


@dataclass(frozen=True, slots=True, kw_only=True)
class Pod:
    """One worker's pod."""

    name: str
    role: Role  # that it serves now: a flexible pool's may differ from the pool's
    phase: PodPhase
    running_requests: int = 0  # queued ones too
    cached_blocks: int = 0  # what would be lost with it


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolState:
    """A pool at this moment."""

    pool: Pool
    replicas: int  # the Deployment's spec.replicas, by whatever writer
    pods: tuple[Pod, ...]
    paused: bool = False  # an operator wants it left alone


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefillLoad:
    """Prefill work of one group: the prefill pools with one length class, or those with none.

    Only the classes that the group serves are in the mappings.
    """

    arrived_tokens: Mapping[LengthClass, float]  # residual tokens per second that arrived
    token_seconds: Mapping[LengthClass, float]  # of one worker, for one such token
    queued_tokens: Mapping[LengthClass, float]  # wait now, at workers
    ttft_seconds: Mapping[LengthClass, float | None]  # 90th percentile; None: no first token
    queue_seconds: Mapping[LengthClass, float | None]  # the part of it spent waiting at a worker
    waiting_requests: float  # wait at routers, for a worker of any role
    # That served the group on average within the window of the percentiles; None: as many as now.
    mean_workers: float | None = None
    # `arrived_tokens` of the last few scrapes, to see a surge early; empty: those are all there is.
    recent_tokens: Mapping[LengthClass, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeLoad:
    """Decode work of all decode workers together."""

    running_requests: float
    context_tokens: float  # of the running requests, in all
    queued_requests: float  # wait for KV blocks, at workers
    queued_tokens: float  # KV slots that these wait for
    blocks_predicted: float  # peak of what is admitted (Past-Future), in all
    blocks_per_worker: float  # 0: unknown, no worker is there
    block_size: int
    generated_tokens: float  # per second
    tpot_seconds: float | None  # 90th percentile; None: no second token yet
    cost: CostModel | None  # a decode step's, median of the workers'; None: unknown
    waiting_requests: float  # wait at routers, for a worker of any role
    # That served on average within the window of the percentile; None: as many as now.
    mean_workers: float | None = None
    # What is still in prefill, or waits for it, comes too: known only with both of these.
    arrived_requests: float = 0.0  # per second, at routers
    output_tokens: float | None = None  # mean of the requests that finished lately
    # Residual tokens per second that arrived, where no pool is there to compute them.
    prompt_tokens: float = 0.0


DemandRule = Literal[
    "throughput", "queue", "latency", "waiting", "memory", "slots", "token rate", "idle"
]

ScalingRule = (
    DemandRule
    | Literal[
        "unwatched",
        "window",
        "enough",
        "scale in",
        "scale to zero",
        "bounds",
        "elsewhere",
        "maximum",
        "unschedulable",
        "manual edit",
        "paused",
        "data missing",
    ]
)

FlipRule = Literal["flip", "home"]


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a pool is scaled or held."""

    rule: ScalingRule
    details: str

    def __str__(self) -> str:
        return f"{self.rule}: {self.details}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """How many workers a group's work needs, not rounded; what the largest term was."""

    workers: float
    reason: Reason  # its rule is a DemandRule
    is_idle: bool  # nothing runs, waits, or has arrived within the window


Group = tuple[Role, LengthClass | None]
"""Pools that share their work: all decode pools, or the prefill pools of one length class."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """Set a pool's replicas."""

    pool: PoolName
    replicas: int
    rule: ScalingRule
    reason: str
    leaving: tuple[str, ...] = ()  # on the way in: pods to give up, cheapest first


@dataclass(frozen=True, slots=True, kw_only=True)
class Flip:
    """Have a pod of a flexible pool serve the other role."""

    pool: PoolName
    pod: str
    role: Role  # from now on
    rule: FlipRule
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """Leave a pool as it is."""

    pool: PoolName
    rule: ScalingRule
    reason: str


Action = Scale | Flip | Hold

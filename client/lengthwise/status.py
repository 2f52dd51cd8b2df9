"""What a router knows of its workers, and how long its requests took."""

from dataclasses import dataclass
from itertools import accumulate
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerQueue:
    """Requests that wait at a worker."""

    length_class: str
    """short or long; empty where the worker does not tell them apart."""
    requests: int
    tokens: int
    """Of their prompts, those that are not cached."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerState:
    """A worker as the router sees it; numbers are 0 and names empty until it has reported."""

    address: str
    condition: str
    """connecting, ready, draining, stalled, lost or incompatible."""
    worker_id: str
    model: str
    role: Literal["prefill", "decode", ""]
    length_class: str
    """The only prompts meant for it; empty: all."""
    running_requests: int
    queues: tuple[WorkerQueue, ...]
    blocks_total: int
    blocks_free: int
    """Those with reusable content included."""
    block_size: int
    """In tokens."""
    prompt_tokens_total: int
    """Computed since the worker's start."""
    output_tokens_total: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyHistogram:
    """How long requests of one length class took, since the router's start."""

    measure: Literal["ttft", "tpot"]
    """Time to first token; time per output token after it."""
    length_class: str
    upper_bounds: tuple[float, ...]
    """Of the buckets, in seconds, rising."""
    counts: tuple[int, ...]
    """Requests in each bucket; the last, of one more than the bounds, took longer than all."""

    @property
    def count(self) -> int:
        return sum(self.counts)

    def quantile(self, share: float) -> float | None:
        """Seconds within which this share of the requests stayed, interpolated within a bucket;
        the highest bound where it lies beyond. None without requests."""
        if not self.count:
            return None
        rank = share * self.count
        edges = (0.0, *self.upper_bounds)
        for index, total in enumerate(accumulate(self.counts[:-1])):
            if total >= rank and self.counts[index]:
                within = (rank - (total - self.counts[index])) / self.counts[index]
                return edges[index] + (edges[index + 1] - edges[index]) * within
        return edges[-1]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelStatus:
    """A served model."""

    model: str
    requests_in_flight: int
    """Those that wait for admission included."""
    requests_waiting: int
    short_tokens: int
    """Tokens to compute up to which a prompt is of class short."""
    latencies: tuple[LatencyHistogram, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RouterStatus:
    """What `Client.status` gives."""

    router_id: str
    """Unique for each start."""
    uptime_seconds: float
    draining: bool
    requests_in_flight: int
    """Those that wait for admission included."""
    requests_waiting: int
    workers: tuple[WorkerState, ...]
    """At most 512."""
    num_workers: int
    """With those that `workers` has no room for."""
    models: tuple[ModelStatus, ...]
    """In the order of their names."""

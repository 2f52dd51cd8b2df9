"""Workers and requests as placement sees them."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from lengthwise_policy.cost.model import CostModel
from lengthwise_policy.placement.blame import Blame
from lengthwise_policy.placement.placement import Placement, PlacementInput, PlacementRequest
from lengthwise_policy.placement.worker_view import WorkerView
from lengthwise_policy.types import Role, WorkerId

COST = CostModel(
    step_seconds=0.010,
    token_seconds=1e-4,
    attention_seconds=1e-8,
    history_seconds=1e-7,
    decode_request_seconds=1e-3,
    decode_context_seconds=1e-7,
)
"""Of a worker that has fitted one: 256 new tokens alone take 36 ms."""


def worker(worker_id: str, role: Role, **changes: Any) -> WorkerView:
    """An idle worker with 1,600 KV slots."""
    idle = WorkerView(
        worker_id=WorkerId(worker_id),
        role=role,
        blocks_total=100,
        blocks_free=100,
        block_size=16,
        running_requests=0,
        queued_requests=0,
        queued_tokens=0,
        step=0,
        draining=False,
        model_fingerprint="model",
        layout_fingerprint="layout",
        outstanding_requests=0,
        outstanding_tokens=0,
    )
    return replace(idle, **changes)


def prefill(worker_id: str, **changes: Any) -> WorkerView:
    return worker(worker_id, "prefill", **changes)


def decode(worker_id: str, **changes: Any) -> WorkerView:
    return worker(worker_id, "decode", **changes)


def large(view: WorkerView, **changes: Any) -> WorkerView:
    """The same worker with 160,000 KV slots and a fitted cost model, whose KV has 1,000 bytes a
    token and crosses at 10 MB/s: 1 ms for 10 tokens."""
    fitted: dict[str, Any] = {
        "blocks_total": 10_000,
        "blocks_free": 10_000,
        "cost": COST,
        "is_fitted": True,
        "kv_bytes_per_token": 1_000,
        "kv_bytes_per_second": 1e7,
    }
    return replace(view, **{**fitted, **changes})


def request(**changes: Any) -> PlacementRequest:
    """100 tokens in, 10 out."""
    small = PlacementRequest(num_tokens=100, max_new_tokens=10)
    return replace(small, **changes)


def cached(**tokens: int) -> dict[WorkerId, int]:
    return {WorkerId(name): number for name, number in tokens.items()}


def excluded(*worker_ids: str) -> PlacementRequest:
    return request(blame=Blame.of(*map(WorkerId, worker_ids)))


def pair(placement: Placement) -> tuple[str | None, str | None]:
    return placement.prefill, placement.decode


def asking(
    asked: PlacementRequest,
    prefill: Sequence[WorkerView],
    decode: Sequence[WorkerView],
    now: float = 0.0,
) -> PlacementInput:
    return PlacementInput(request=asked, prefill=prefill, decode=decode, now=now)

"""What is presumed of workers that have not measured all, so that predictions can be compared."""

from collections.abc import Sequence
from dataclasses import replace

from lengthwise_policy.cost.model import PRIOR, CostModel, typical_cost
from lengthwise_policy.placement.worker_view import WorkerView
from lengthwise_policy.types import WorkerId


def presumed_costs(views: Sequence[WorkerView]) -> dict[WorkerId, CostModel]:
    """Of those that have computed no prompts yet, their peers': by the prior a newcomer among slow
    workers would be given every prompt."""
    costs = {view.worker_id: view.cost for view in views if _knows_prompts(view)}
    if len(costs) < len(views):
        presumed = typical_cost(costs.values()) if costs else PRIOR
        costs |= {view.worker_id: presumed for view in views if view.worker_id not in costs}
    return costs


def comparable_cost(view: WorkerView, prefill: WorkerView) -> CostModel:
    """Two predictions are compared: both must be measured, or rest on the same assumption."""
    own, other = view.cost, prefill.cost
    if not prefill.is_fitted:
        return PRIOR
    if not view.is_fitted:
        return replace(other, decode_request_seconds=PRIOR.decode_request_seconds)
    if _knows_prompts(view):
        return own
    # It has not computed a prompt yet: as fast as the prefill worker.
    return replace(
        own,
        token_seconds=other.token_seconds,
        attention_seconds=other.attention_seconds,
        history_seconds=other.history_seconds,
    )


def _knows_prompts(view: WorkerView) -> bool:
    return view.is_fitted and bool(view.cost.token_seconds or view.cost.attention_seconds)

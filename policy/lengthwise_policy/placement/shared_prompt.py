"""Where a choice of a request goes when another one has had their prompt computed: to the decode
worker that has its KV, which shares the full blocks and computes what they leave."""

from collections.abc import Sequence
from math import inf

from lengthwise_policy.placement.candidates import able_to_decode
from lengthwise_policy.placement.local_prefill import local_candidate
from lengthwise_policy.placement.placement import Placement, PlacementRequest, PlacementRule
from lengthwise_policy.placement.worker_view import WorkerView
from lengthwise_policy.types import WorkerId

SHARED_PROMPT: PlacementRule = "shared prompt"


def place_beside(
    request: PlacementRequest, decode: Sequence[WorkerView], holder: WorkerId
) -> Placement | None:
    """None where the holder cannot take it: it is gone, drains, is too small, lacks a capability or
    has failed the request."""
    views = [view for view in able_to_decode(request, decode) if view.worker_id == holder]
    if not views or holder in request.blame.workers:
        return None
    candidate = local_candidate(request, views[0], views[0].cost, inf, required=True)
    assert candidate is not None  # it is required
    return Placement(
        prefill=None,
        decode=holder,
        rule=SHARED_PROMPT,
        reason=(
            f"{SHARED_PROMPT}: another choice has brought it here,"
            f" {candidate.residual_tokens} of {request.num_tokens} tokens are left"
        ),
        candidates=(candidate,),
    )

"""What workers can hold at most, whatever they have to do meanwhile.

A worker that drains is no hope; one that is too old for the request is none either.
"""

from collections.abc import Sequence

from lengthwise_policy.placement.placement import PlacementRequest
from lengthwise_policy.placement.worker_view import WorkerView
from lengthwise_policy.types import Role


def exceeded_capacity(
    request: PlacementRequest,
    prefill: Sequence[WorkerView],
    decode: Sequence[WorkerView],
    *,
    local_prefill: bool,
) -> str | None:
    """Why the workers that are there cannot hold the request even when they are empty; None when
    some can, or when a role that could has no worker at all. No prefill worker is hoped for where
    decode workers compute prompts without any."""
    has_prefill = bool(prefill)
    prefill, decode = _lasting(request.needs, prefill), _lasting(request.needs, decode)
    if request.needs_decode and _is_too_small(decode, request.kv_tokens):
        return f"{request.kv_tokens} tokens of prompt and output; {_largest('decode', decode)}"
    if local_prefill:
        if not _is_too_small(decode, request.kv_tokens):
            return None
        if not has_prefill:
            return f"{request.num_tokens} tokens of prompt; {_largest('decode', decode)}"
    if not _is_too_small(prefill, request.num_tokens):
        return None
    return f"{request.num_tokens} tokens of prompt; {_largest('prefill', prefill)}"


def most_new_tokens(
    num_tokens: int, needs: frozenset[str], decode: Sequence[WorkerView]
) -> int | None:
    """How many tokens the largest decode worker with these capabilities can add to those that there
    are; None while there is no such worker. Any worker can sample one."""
    lasting = _lasting(needs, decode)
    if not lasting:
        return None
    # The last token takes no slot.
    return max(max(view.capacity_tokens for view in lasting) - num_tokens + 1, 1)


def _lasting(needs: frozenset[str], views: Sequence[WorkerView]) -> list[WorkerView]:
    return [view for view in views if not view.draining and needs <= view.capabilities]


def _is_too_small(views: Sequence[WorkerView], num_tokens: int) -> bool:
    return bool(views) and all(view.capacity_tokens < num_tokens for view in views)


def _largest(role: Role, views: Sequence[WorkerView]) -> str:
    view = max(views, key=lambda view: view.capacity_tokens)
    if view.capacity_tokens < view.blocks_total * view.block_size:
        return f"the largest {role} worker takes requests of {view.context_length} tokens in all"
    return (
        f"the largest {role} worker holds {view.capacity_tokens} tokens of KV"
        f" ({view.blocks_total} blocks of {view.block_size})"
    )

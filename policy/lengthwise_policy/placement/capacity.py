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
    needs, kv_tokens, num_tokens = request.needs, request.kv_tokens, request.num_tokens
    if request.needs_decode and _are_too_small(needs, decode, kv_tokens):
        return f"{kv_tokens} tokens of prompt and output; {_largest('decode', needs, decode)}"
    if local_prefill:
        if not _are_too_small(needs, decode, kv_tokens):
            return None
        if not prefill:
            return f"{num_tokens} tokens of prompt; {_largest('decode', needs, decode)}"
    if not _are_too_small(needs, prefill, num_tokens):
        return None
    return f"{num_tokens} tokens of prompt; {_largest('prefill', needs, prefill)}"


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


def _are_too_small(needs: frozenset[str], views: Sequence[WorkerView], num_tokens: int) -> bool:
    """Whether there are some, and none is large enough: nearly always the first one is."""
    if any(
        view.capacity_tokens >= num_tokens and not view.draining and needs <= view.capabilities
        for view in views
    ):
        return False
    return bool(_lasting(needs, views))


def _largest(role: Role, needs: frozenset[str], views: Sequence[WorkerView]) -> str:
    view = max(_lasting(needs, views), key=lambda view: view.capacity_tokens)
    if view.capacity_tokens < view.blocks_total * view.block_size:
        return f"the largest {role} worker takes requests of {view.context_length} tokens in all"
    return (
        f"the largest {role} worker holds {view.capacity_tokens} tokens of KV"
        f" ({view.blocks_total} blocks of {view.block_size})"
    )

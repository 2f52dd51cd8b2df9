"""What an engine reports of one moment."""

from dataclasses import dataclass

from lengthwise_policy.cost.model import CostModel

QueueRow = tuple[str, int, int]
"""(length class, requests, tokens); the class is empty where requests are not classed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSnapshot:
    """Taken on the engine thread, read on any."""

    blocks_free: int
    blocks_cached: int
    running_requests: int
    queues: tuple[QueueRow, ...]
    prompt_tokens_total: int
    cost: CostModel | None
    """None until fitted."""
    cost_samples: int
    short_tokens: int

"""Everything that one turn of the engine thread has to tell the event loop."""

from collections import Counter
from dataclasses import dataclass, field

from lengthwise_decode_worker.messages import Outcome
from lengthwise_decode_worker.stepping.rows import RouterRows
from lengthwise_policy.decode.request import GrantRule
from lengthwise_policy.kv.prefix_cache import BlockEvents


@dataclass(slots=True, kw_only=True)
class StepOutput:
    """Handed over once per step, and never touched by the engine thread again."""

    outcomes: list[Outcome] = field(default_factory=list)
    rows: dict[str, RouterRows] = field(default_factory=dict)
    gap_seconds: float | None = None
    busy_seconds: float = 0.0
    block_events: BlockEvents | None = None
    preemptions: int = 0
    cached_tokens: int = 0
    """Prompt tokens found in the cache by the requests granted in this turn."""
    local_prefill_tokens: int = 0
    recomputed_tokens: int = 0
    """Computed again after a preemption."""
    admissions: Counter[GrantRule] = field(default_factory=Counter)
    """Grants by their rule."""

    def rows_of(self, router_id: str) -> RouterRows:
        rows = self.rows.get(router_id)
        if rows is None:
            rows = self.rows[router_id] = RouterRows()
        return rows

    def count_admission(self, rule: GrantRule) -> None:
        self.admissions[rule] += 1

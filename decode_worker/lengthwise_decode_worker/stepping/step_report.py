"""What one step of the decode engine gave."""

from collections import Counter
from dataclasses import dataclass, field

from lengthwise_decode_worker.messages import Outcome
from lengthwise_decode_worker.stepping.rows import RouterRows
from lengthwise_policy.decode.request import GrantRule
from lengthwise_worker.messages import StepReport


@dataclass(slots=True, kw_only=True)
class DecodeReport(StepReport[Outcome]):
    """Rows for routers, and counts."""

    rows: dict[str, RouterRows] = field(default_factory=dict)
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

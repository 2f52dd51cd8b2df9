"""What a decode worker may be told about its scheduling.

The rule: a value that cannot work is refused when it is read.
"""

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from lengthwise_policy.checks import require_at_least
from lengthwise_policy.decode.past_future import FuturePolicy


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodePolicy:
    """Limits of a decode worker."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    max_running: int = 256  # requests that decode in one step; more may be admitted
    queue_limit: int = 1024  # reservations that wait for blocks
    step_tokens: int = 512  # tokens computed in one step; 512 is Sarathi-Serve's strict budget
    # "worst_case" admits while all could run to their limits at once, for comparison.
    admission: Literal["past_future", "worst_case"] = "past_future"
    future: FuturePolicy = field(default_factory=FuturePolicy)

    def __post_init__(self) -> None:
        require_at_least("max_running", self.max_running, 1)
        require_at_least("queue_limit", self.queue_limit, 1)
        require_at_least("step_tokens", self.step_tokens, self.max_running + 1)

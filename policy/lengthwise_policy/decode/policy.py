"""What may be set about a decode worker's scheduling."""

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from lengthwise_policy.checks import require_at_least, require_at_most

AdmissionName = Literal["past_future", "worst_case", "free_now"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PastFuturePolicy:
    """How a decode worker predicts."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    # Outputs remembered. 0: none, so that every prediction is the worst case, max_new_tokens.
    window: int = 200
    # Share of the capacity that no prediction may use. 200 and 0.05 are the published defaults.
    reserve: float = 0.05

    def __post_init__(self) -> None:
        require_at_least("window", self.window, 0)
        require_at_least("reserve", self.reserve, 0.0)
        require_at_most("reserve", self.reserve, 0.9)


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodePolicy:
    """Limits of a decode worker."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    max_running: int = 256  # requests that decode in one step; more may be admitted
    queue_limit: int = 1024  # reservations that wait for blocks
    step_tokens: int = 512  # tokens computed in one step; 512 is Sarathi-Serve's strict budget
    # For comparison: "worst_case" admits while all could run to their limits at once, "free_now"
    # while the prompt fits into blocks that are free, and leaves the reserve of past_future free.
    admission: AdmissionName = "past_future"
    past_future: PastFuturePolicy = field(default_factory=PastFuturePolicy)  # of that admission

    def __post_init__(self) -> None:
        require_at_least("max_running", self.max_running, 1)
        require_at_least("queue_limit", self.queue_limit, 1)
        require_at_least("step_tokens", self.step_tokens, self.max_running + 1)

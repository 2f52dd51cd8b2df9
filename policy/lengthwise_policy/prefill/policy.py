"""Limits and weights of a prefill worker's scheduler (disciplines.py, length_aware.py)."""

from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar, Literal

from lengthwise_policy.checks import require_at_least

DisciplineName = Literal["length_aware", "short_first", "fcfs"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefillPolicy:
    """Limits of a prefill worker."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    discipline: DisciplineName = "length_aware"  # in which order prompts are computed
    chunk_tokens: int = 512  # tokens of one batch; Sarathi-Serve: chunks of 512 cost up to 25 %
    max_batch_requests: int = 64  # prompts of one batch
    queue_limit: int = 1024  # requests with tokens still to compute

    # All below is for "length_aware".
    max_wait_seconds: float = 0.008  # of the window; LAPS found 6 to 8 ms best
    margin_seconds: float = 0.001  # kept of the slack when a window is opened
    short_share: float = 0.1  # of the device's time for short prompts, while both classes wait
    long_share: float = 0.3  # likewise for long ones
    max_age_seconds: float = 0.5  # a long prompt that waited so long is overtaken no more
    chunk_seconds: float = 0.2  # of a chunk while short ones wait: half of their objective
    min_chunk_tokens: int = 256  # below it, the launch and the weights cost more than the tokens
    # Up to this share of the tokens whose computing takes as long as the step itself, for each long
    # prompt that waits, a batch of short ones is topped up with tokens of those; 0: they share no
    # batch.
    top_up_share: float = 1.0
    # Short prompts are queued by length, up to these, so that a batch holds prompts alike: a graph
    # of the engine pads them to one length.
    graph_lengths: tuple[int, ...] = (8, 16, 32, 64, 128, 256)

    def __post_init__(self) -> None:
        for name in ("chunk_tokens", "max_batch_requests", "queue_limit", "min_chunk_tokens"):
            require_at_least(name, getattr(self, name), 1)
        for name in ("max_wait_seconds", "margin_seconds", "max_age_seconds", "chunk_seconds"):
            require_at_least(name, getattr(self, name), 0.0)
        require_at_least("top_up_share", self.top_up_share, 0.0)
        for name in ("short_share", "long_share"):
            require_at_least(name, getattr(self, name), 0.001)
        if not self.short_share + self.long_share <= 1.0:
            raise ValueError(
                f"short_share and long_share: expected at most 1 together, got {self.short_share} "
                f"and {self.long_share}"
            )
        if any(low >= high for low, high in pairwise((0, *self.graph_lengths))):
            raise ValueError(
                f"graph_lengths: expected growing sizes of at least 1, got {self.graph_lengths}"
            )

"""What steps take, in seconds: one model for placement, scheduling, admission and the simulator.

A prefill step with chunks of L_i new tokens after H_i cached ones takes

    T = t0 + beta * sum(L) + alpha * sum(L * (L + 2 H)) + gamma * sum(H)

(LAPS: attention grows with L (L + 2 H), and cached history has to be read; the constant t0, the
weights and the launches, is ours: without it a fit on short prompts goes wrong). A decode step of
B requests whose contexts have C tokens in all takes t0 + d1 * B + d2 * C (DistServe). Every
coefficient is at least 0.
"""

from collections.abc import Iterable
from dataclasses import astuple, dataclass
from math import inf, sqrt


@dataclass(frozen=True, slots=True, kw_only=True)
class CostModel:
    """Coefficients in seconds."""

    step_seconds: float  # t0
    token_seconds: float  # beta, per new prompt token
    attention_seconds: float  # alpha, per unit of L (L + 2 H)
    history_seconds: float  # gamma, per cached token
    decode_request_seconds: float  # d1
    decode_context_seconds: float  # d2

    def prefill_seconds(self, new_tokens: int, history: int = 0) -> float:
        """A step with this one chunk."""
        return self.step_seconds + self.chunk_seconds(new_tokens, history)

    def chunk_seconds(self, new_tokens: int, history: int = 0) -> float:
        """What this chunk adds to a step that runs anyway."""
        return (
            self.token_seconds * new_tokens
            + self.attention_seconds * new_tokens * (new_tokens + 2 * history)
            + self.history_seconds * history
        )

    def decode_step_seconds(self, requests: int, context_tokens: int) -> float:
        """One token for each of `requests`, whose contexts have `context_tokens` in all."""
        return (
            self.step_seconds
            + self.decode_request_seconds * requests
            + self.decode_context_seconds * context_tokens
        )

    def boundary(self, history: int = 0) -> float:
        """New tokens at which computing takes as long as what a step costs anyway (LAPS).

        Below it a prefill is bound by memory and launches, above it by compute: the positive root
        of alpha L^2 + (2 alpha H + beta) L = t0 + gamma H; inf when computing costs nothing.
        """
        return self._computed_in(self.step_seconds + self.history_seconds * history, history)

    def tokens_within(self, seconds: float, history: int = 0) -> float:
        """The largest chunk after `history` tokens that adds at most `seconds` to a step.

        Not rounded; 0 when reading the history takes as long; inf when computing costs nothing.
        """
        return self._computed_in(seconds - self.history_seconds * history, history)

    def _computed_in(self, seconds: float, history: int) -> float:
        """The positive root L of alpha L^2 + (2 alpha H + beta) L = seconds."""
        if seconds <= 0:
            return 0.0
        linear = 2 * self.attention_seconds * history + self.token_seconds
        # This form of the root is exact for alpha = 0 too, and loses no digits near it.
        divisor = linear + sqrt(linear * linear + 4 * self.attention_seconds * seconds)
        return inf if divisor == 0 or seconds == inf else 2 * seconds / divisor


def typical_cost(costs: Iterable[CostModel]) -> CostModel:
    """What to presume of a worker that has not fitted its own, given at least one peer's: the
    middle one by the time of a step.

    Compared with PRIOR, peers that are faster would keep every request, and the newcomer would
    never run the steps that its own fit needs.
    """
    ranked = sorted(costs, key=astuple)
    return ranked[(len(ranked) - 1) // 2]


# Until a worker has fitted its own. Only proportions matter where all workers are unfitted: one
# step costs as much as 256 tokens, which is where DEFAULT_SHORT_TOKENS puts the boundary.
PRIOR = CostModel(
    step_seconds=0.0128,
    token_seconds=5e-5,
    attention_seconds=0.0,
    history_seconds=0.0,
    decode_request_seconds=1e-4,
    decode_context_seconds=0.0,
)

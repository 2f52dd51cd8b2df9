"""How a request wants its tokens chosen: values alone, the drawing is the engine's."""

from collections.abc import Mapping
from dataclasses import dataclass, field

MIN_TEMPERATURE = 1e-5
"""Below it sampling is greedy: logits over it would leave float32, and no other token than the best
had a chance."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParameters:
    """Sampling parameters of one request, resolved and validated by the router.

    `temperature` below MIN_TEMPERATURE is greedy. `top_k` 0, `top_p` 1 and `min_p` 0 leave the
    support whole. `seed` is an unsigned 64-bit number. `logit_bias` maps token ids to what is added
    to their logits. `top_logprobs` None asks for no log-probabilities, 0 for the chosen token's
    alone, k for those of the k best tokens as well.

    `stop_token_ids` end the request. They are not sampled before `min_tokens` were generated, those
    of earlier attempts included; one that is sampled afterwards counts as a generated token.

    `grammar` is what the output must be, as llguidance reads it; empty: anything.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int = 0
    min_tokens: int = 0
    logit_bias: Mapping[int, float] = field(default_factory=dict, hash=False)
    top_logprobs: int | None = None
    stop_token_ids: frozenset[int] = frozenset()
    grammar: str = field(default="", repr=False)
    may_change_logits: bool = field(init=False, repr=False, compare=False)
    """Whether a token may be chosen from other logits than the model's. Computed once: every row of
    every step asks."""

    def __post_init__(self) -> None:
        changes = self.penalised or self.needs_history or bool(self.logit_bias)
        changes = changes or self.min_tokens > 0
        object.__setattr__(self, "may_change_logits", changes)

    @property
    def is_argmax(self) -> bool:
        """Whether the largest logit wins, without penalties."""
        return self.greedy and not self.penalised

    @property
    def penalised(self) -> bool:
        """Whether earlier tokens of the sequence change the logits."""
        return (
            self.repetition_penalty != 1.0
            or self.presence_penalty != 0.0
            or self.frequency_penalty != 0.0
        )

    @property
    def needs_history(self) -> bool:
        """Whether the next token cannot be chosen before the host knows all earlier ones."""
        return bool(self.grammar)

    @property
    def takes_best(self) -> bool:
        """Whether the token is the one with the largest raw logit, and nothing else is asked."""
        return self.greedy and not self.may_change_logits and self.top_logprobs is None

    @property
    def greedy(self) -> bool:
        """Whether nothing is drawn."""
        return self.temperature < MIN_TEMPERATURE

    @property
    def narrowed(self) -> bool:
        """Whether some tokens cannot be sampled at all."""
        return self.top_k > 0 or self.top_p < 1.0 or self.min_p > 0.0

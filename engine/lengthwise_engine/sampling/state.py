"""What a sequence's next token depends on."""

from collections.abc import Sequence
from dataclasses import dataclass

from lengthwise_engine.sampling.grammar import GrammarState
from lengthwise_policy.sampling import SamplingParameters


@dataclass(slots=True, kw_only=True, eq=False, weakref_slot=True)
class SamplingState:
    """What the next token of one sequence depends on besides its logits.

    One object follows a sequence through its steps: what was counted of it is found by it.
    `token_ids` is the whole sequence so far and grows with it; the position of the token sampled
    next is `len(token_ids)`. The first `num_prompt_tokens` of them are the prompt.
    """

    sampling: SamplingParameters
    token_ids: Sequence[int]
    num_prompt_tokens: int
    grammar: GrammarState | None = None
    """Where `sampling` has one."""

    def may_end(self, position: int) -> bool:
        """Whether the token at this position may be one that ends the request."""
        return position - self.num_prompt_tokens >= self.sampling.min_tokens

    def keeps_logits(self, position: int) -> bool:
        """Whether the token at this position is chosen from the logits as they are, but for
        penalties."""
        sampling = self.sampling
        return not sampling.needs_history and not sampling.logit_bias and self.may_end(position)

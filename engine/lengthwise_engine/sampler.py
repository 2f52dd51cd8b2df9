"""How a token is chosen from logits.

The rule: a token is a function of (logits, sampling parameters, seed, position) and of nothing
else, so a request samples the same tokens whatever batch, worker or retry it runs in.
"""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """Sampling parameters of one request, resolved and validated by the router.

    `temperature` 0 is greedy. `top_k` 0, `top_p` 1 and `min_p` 0 leave the support whole.
    `seed` is an unsigned 64-bit number. `top_logprobs` None asks for no log-probabilities, 0 for
    the chosen token's alone, k for those of the k best tokens as well.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int = 0
    top_logprobs: int | None = None


@dataclass(slots=True, kw_only=True)
class SamplingState:
    """What the next token of one sequence depends on besides its logits.

    `token_ids` is the whole sequence so far and grows with it; the position of the token sampled
    next is `len(token_ids)`. The first `num_prompt_tokens` of them are the prompt.
    """

    sampling: Sampling
    token_ids: Sequence[int]
    num_prompt_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SampledToken:
    """A chosen token; log-probabilities are of the raw logits, before penalties and temperature.

    `logprob` is None and `top_logprobs` (best first) empty unless they were asked for.
    """

    token_id: int
    logprob: float | None
    top_logprobs: tuple[tuple[int, float], ...]

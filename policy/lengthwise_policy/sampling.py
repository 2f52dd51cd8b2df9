"""How a request wants its tokens chosen: values alone, the drawing is the engine's."""

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

"""What a toy model answers greedily where sampling parameters change its logits, token by token."""

from collections.abc import Collection, Mapping, Sequence
from math import inf

from lengthwise_checkpoint.toy import ToySpec
from lengthwise_engine.toy.arithmetic import toy_logits, toy_next_token


def toy_answer(
    prompt: Sequence[int],
    num_tokens: int,
    spec: ToySpec,
    *,
    min_tokens: int = 0,
    logit_bias: Mapping[int, float] = {},
    stops: Collection[int] = (),
) -> list[int]:
    """At most `num_tokens`, up to the first of `stops`."""
    answer: list[int] = []
    while len(answer) < num_tokens and not (answer and answer[-1] in stops):
        logits = toy_logits(toy_next_token([*prompt, *answer], spec))
        for token_id, bias in logit_bias.items():
            logits[token_id] += bias
        if len(answer) < min_tokens:
            for token_id in stops:
                logits[token_id] = -inf
        answer.append(logits.index(max(logits)))
    return answer

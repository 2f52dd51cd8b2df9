"""What a toy model answers greedily, from its definition alone: no cache, no runner."""

from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from math import inf

from lengthwise_checkpoint.toy import ToySpec
from lengthwise_engine.toy.arithmetic import (
    NUM_CHANNELS,
    VALUE_MODULUS,
    channel_number,
    channel_weight,
    next_token_of_sum,
    toy_logits,
)


def toy_next_token(token_ids: Sequence[int], spec: ToySpec) -> int:
    """What a `ToyRunner` answers greedily after `token_ids` if its cache is right."""
    total = sum(
        _contribution(position, token, spec.num_layers) for position, token in enumerate(token_ids)
    )
    return next_token_of_sum(total, spec)


def toy_continuation(token_ids: Sequence[int], num_tokens: int, spec: ToySpec) -> list[int]:
    """The first `num_tokens` greedy tokens after `token_ids`."""
    total, answer = 0, list(token_ids)
    for position in range(len(token_ids) + num_tokens):
        if position == len(answer):
            answer.append(next_token_of_sum(total, spec))
        total += _contribution(position, answer[position], spec.num_layers)
    return answer[len(token_ids) :]


@lru_cache(maxsize=1 << 17)
def _contribution(position: int, token: int, num_layers: int) -> int:
    total = 0
    for layer in range(num_layers):
        weighted = 0
        for kv in range(2):
            for channel in range(NUM_CHANNELS):
                c = channel_number(layer, kv, channel)
                value = ((2 * c + 1) * token + c * position + c * c) % VALUE_MODULUS
                weighted += value * channel_weight(c)
        total += (1 + layer + num_layers * position) * weighted
    return total


def toy_answer(
    prompt: Sequence[int],
    num_tokens: int,
    spec: ToySpec,
    *,
    min_tokens: int = 0,
    logit_bias: Mapping[int, float] = {},
    stops: Collection[int] = (),
) -> list[int]:
    """Where sampling parameters change logits: at most `num_tokens`, up to the first of `stops`."""
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

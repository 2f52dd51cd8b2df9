"""How a token is chosen from logits.

The rule: a token is a function of (logits, sampling parameters, seed, position) and of nothing
else, so a request samples the same tokens whatever batch, worker or retry it runs in. The steps, in
this order: penalties, temperature, top-k, top-p, min-p, Gumbel-max. Ties at a threshold all stay.
Rows that do not need a step do not pay for it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from lengthwise_kernels.dispatch import sample_tokens
from lengthwise_policy.sampling import Sampling as Sampling


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


def sample(logits: torch.Tensor, states: Sequence[SamplingState]) -> list[SampledToken]:
    """One token for each row of `logits` [rows, vocab_size], float32, which stay as they are."""
    adjusted = _penalise(logits, states)
    chosen = adjusted.argmax(-1)
    random = [row for row, state in enumerate(states) if state.sampling.temperature > 0.0]
    if random:
        drawn = _draw(_rows(adjusted, random), [states[row] for row in random])
        chosen[torch.tensor(random, device=logits.device)] = drawn
    token_ids: list[int] = chosen.tolist()
    tokens = [
        SampledToken(token_id=token_id, logprob=None, top_logprobs=()) for token_id in token_ids
    ]
    asked = [row for row, state in enumerate(states) if state.sampling.top_logprobs is not None]
    if asked:
        counts = [states[row].sampling.top_logprobs or 0 for row in asked]
        of_asked = [token_ids[row] for row in asked]
        for row, token in zip(asked, _report(_rows(logits, asked), of_asked, counts), strict=True):
            tokens[row] = token
    return tokens


def _rows(matrix: torch.Tensor, rows: Sequence[int]) -> torch.Tensor:
    """These rows, without a copy if they are all of them."""
    return matrix if len(rows) == len(matrix) else matrix[torch.tensor(rows, device=matrix.device)]


def _penalise(logits: torch.Tensor, states: Sequence[SamplingState]) -> torch.Tensor:
    """Repetition over prompt and output (Hugging Face), the others over the output (OpenAI)."""
    rows = [row for row, state in enumerate(states) if state.sampling.penalised]
    if not rows:
        return logits
    logits = logits.clone()
    for row in rows:
        state, values = states[row], logits[row]
        sampling = state.sampling
        seen = torch.tensor(state.token_ids, device=logits.device)
        if sampling.repetition_penalty != 1.0:
            before = values[seen]
            penalty = sampling.repetition_penalty
            values[seen] = torch.where(before < 0, before * penalty, before / penalty)
        counts = torch.bincount(seen[state.num_prompt_tokens :], minlength=len(values))
        values -= counts * sampling.frequency_penalty + (counts > 0) * sampling.presence_penalty
    return logits


def _draw(logits: torch.Tensor, states: Sequence[SamplingState]) -> torch.Tensor:
    """A sample of each row at its temperature, position and seed; int64 [rows]."""
    device = logits.device
    samplings = [state.sampling for state in states]
    temperatures = torch.tensor([sampling.temperature for sampling in samplings], device=device)
    # As int64: the upper half of the unsigned seeds becomes negative with the same bits.
    seeds = [(sampling.seed + 2**63) % 2**64 - 2**63 for sampling in samplings]
    return sample_tokens(
        logits / temperatures.unsqueeze(1),
        seeds=torch.tensor(seeds, device=device),
        positions=torch.tensor([len(state.token_ids) for state in states], device=device),
        top_k=torch.tensor([sampling.top_k for sampling in samplings], device=device),
        top_p=torch.tensor([float(sampling.top_p) for sampling in samplings], device=device),
        min_p=torch.tensor([float(sampling.min_p) for sampling in samplings], device=device),
    )


def _report(
    logits: torch.Tensor, chosen: Sequence[int], counts: Sequence[int]
) -> list[SampledToken]:
    """The chosen tokens with their log-probabilities and those of each row's best tokens."""
    logprobs = logits.log_softmax(-1)
    of_chosen = logprobs.gather(1, torch.tensor(chosen, device=logits.device).unsqueeze(1))
    best = logprobs.topk(min(max(counts), logits.shape[1]), dim=-1)
    columns = zip(
        chosen,
        of_chosen.squeeze(1).tolist(),
        best.indices.tolist(),
        best.values.tolist(),
        counts,
        strict=True,
    )
    return [
        SampledToken(
            token_id=token_id,
            logprob=logprob,
            top_logprobs=tuple(zip(ids[:count], values[:count], strict=True)),
        )
        for token_id, logprob, ids, values, count in columns
    ]

"""How a token is chosen from logits.

The rule: a token is a function of (logits, sampling parameters, seed, position) and of nothing
else, so a request samples the same tokens whatever batch, worker or retry it runs in. The steps, in
this order: penalties, temperature, top-k, top-p, min-p, Gumbel-max. Ties at a threshold all stay.
Rows that do not need a step do not pay for it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch

from lengthwise_kernels.dispatch import gumbel_noise, gumbel_noise_everywhere
from lengthwise_policy.sampling import Sampling as Sampling

_LIKELY_ENOUGH: Final = 1024
"""Tokens looked at for top-p before the whole vocabulary is sorted. On one core a row of 152,000
logits of a model that knows what it wants costs 2.3 ms this way and 15 ms sorted."""


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
    token_ids: list[int] = adjusted.argmax(-1).tolist()
    random = [row for row, state in enumerate(states) if state.sampling.temperature > 0.0]
    if random:
        drawn = _draw(_rows(adjusted, random), [states[row] for row in random])
        for row, token_id in zip(random, drawn, strict=True):
            token_ids[row] = token_id
    tokens = [
        SampledToken(token_id=token_id, logprob=None, top_logprobs=()) for token_id in token_ids
    ]
    asked = [row for row, state in enumerate(states) if state.sampling.top_logprobs is not None]
    if asked:
        counts = [states[row].sampling.top_logprobs or 0 for row in asked]
        chosen = [token_ids[row] for row in asked]
        for row, token in zip(asked, _report(_rows(logits, asked), chosen, counts), strict=True):
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


def _draw(logits: torch.Tensor, states: Sequence[SamplingState]) -> list[int]:
    """A sample of each row at its temperature, position and seed."""
    device = logits.device
    temperatures = torch.tensor([state.sampling.temperature for state in states], device=device)
    scores = logits / temperatures.unsqueeze(1)
    # As int64: the upper half of the unsigned seeds becomes negative with the same bits.
    seeds = [(state.sampling.seed + 2**63) % 2**64 - 2**63 for state in states]
    seed = torch.tensor(seeds, device=device)
    position = torch.tensor([len(state.token_ids) for state in states], device=device)
    token_ids = [0] * len(states)
    narrowed = [row for row, state in enumerate(states) if state.sampling.narrowed]
    whole = [row for row, state in enumerate(states) if not state.sampling.narrowed]
    if whole:
        index = torch.tensor(whole, device=device)
        noise = gumbel_noise_everywhere(seed[index], position[index], scores.shape[1])
        for row, token in zip(whole, (scores[index] + noise).argmax(-1).tolist(), strict=True):
            token_ids[row] = token
    if narrowed:
        index = torch.tensor(narrowed, device=device)
        part = scores[index]
        threshold = _threshold(part, [states[row].sampling for row in narrowed])
        row_of, token_of = (part >= threshold.unsqueeze(1)).nonzero(as_tuple=True)
        noise = gumbel_noise(seed[index][row_of], position[index][row_of], token_of)
        noisy = torch.full_like(part, -math.inf)
        noisy[row_of, token_of] = part[row_of, token_of] + noise
        for row, token in zip(narrowed, noisy.argmax(-1).tolist(), strict=True):
            token_ids[row] = token
    return token_ids


def _threshold(scores: torch.Tensor, samplings: Sequence[Sampling]) -> torch.Tensor:
    """The least score [rows] that top-k, then top-p of what is left, then min-p let through."""
    vocab_size = scores.shape[1]
    min_p = torch.tensor([sampling.min_p for sampling in samplings], device=scores.device)
    threshold = scores.amax(-1) + min_p.log()
    top_k = [row for row, sampling in enumerate(samplings) if 0 < sampling.top_k < vocab_size]
    top_p = [
        row for row, sampling in enumerate(samplings) if sampling.top_p < 1.0 and row not in top_k
    ]
    for rows, least_kept in ((top_k, _least_of_top_k), (top_p, _least_of_top_p)):
        if rows:
            index = torch.tensor(rows, device=scores.device)
            least = least_kept(scores[index], [samplings[row] for row in rows])
            threshold[index] = torch.maximum(threshold[index], least)
    return threshold


def _least_of_top_k(scores: torch.Tensor, samplings: Sequence[Sampling]) -> torch.Tensor:
    """The least score [rows] among the top-k and, of their mass, the top-p."""
    sizes = [sampling.top_k for sampling in samplings]
    best = scores.topk(max(sizes), dim=-1).values
    outside = torch.arange(max(sizes), device=best.device) >= _column(sizes, best)
    mass = best.masked_fill(outside, -math.inf).softmax(-1)
    kept = _reaching(mass, samplings) & ~outside
    return best.gather(1, kept.sum(-1, keepdim=True) - 1).squeeze(1)


def _least_of_top_p(scores: torch.Tensor, samplings: Sequence[Sampling]) -> torch.Tensor:
    """The least score [rows] among the fewest tokens whose mass reaches top-p."""
    total = scores.logsumexp(-1, keepdim=True)
    best = scores.topk(min(_LIKELY_ENOUGH, scores.shape[1]), dim=-1).values
    if ((best - total).exp().sum(-1, keepdim=True) < _top_p(samplings, best)).any():
        best = scores.sort(-1, descending=True).values
    kept = _reaching((best - total).exp(), samplings)
    return best.gather(1, kept.sum(-1, keepdim=True) - 1).squeeze(1)


def _reaching(mass: torch.Tensor, samplings: Sequence[Sampling]) -> torch.Tensor:
    """Which tokens are needed to reach top-p, given masses in falling order; always the first."""
    before = mass.cumsum(-1) - mass
    top_p = _top_p(samplings, mass)
    kept = (before < top_p) | (top_p >= 1.0)
    kept[:, 0] = True
    return kept


def _top_p(samplings: Sequence[Sampling], like: torch.Tensor) -> torch.Tensor:
    return _column([sampling.top_p for sampling in samplings], like)


def _column(values: Sequence[float], like: torch.Tensor) -> torch.Tensor:
    return torch.tensor(values, device=like.device).unsqueeze(1)


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

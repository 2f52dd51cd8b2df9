"""How a token is chosen from logits.

Invariant: a token is a function of (logits, sampling parameters, seed, position) and of nothing
else, so a request samples the same tokens whatever batch, worker or retry it runs in. The steps, in
this order: logit bias, min_tokens, grammar, penalties, temperature, top-k, top-p, min-p,
Gumbel-max. Ties at a threshold all stay. Rows that do not need a step do not pay for it, and
nothing here waits for the device but `sample`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch.nn import functional

from lengthwise_engine.sampling.state import SamplingState as SamplingState
from lengthwise_engine.sampling.token_counts import TokenCounts
from lengthwise_kernels.dispatch import Penalties, sample_tokens
from lengthwise_kernels.staging import Arrays, to_device
from lengthwise_policy.sampling import SamplingParameters as SamplingParameters

NO_TOKEN: Final = -1
"""In a row whose best logit is not finite: what was computed is broken, or no token is allowed."""

NO_TOKEN_TEXT: Final = (
    "no token can be chosen: the logits are NaN or infinite, or min_tokens or the grammar leave"
    " none; are the weights whole?"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SampledToken:
    """A chosen token, or NO_TOKEN; log-probabilities are of the raw logits, before biases,
    penalties and temperature.

    `logprob` is None and `top_logprobs` (best first) empty unless they were asked for.
    """

    token_id: int
    logprob: float | None
    top_logprobs: tuple[tuple[int, float], ...]


@dataclass(frozen=True, slots=True)
class ChosenTokens:
    """Tokens on their way to the host: `numbers` int32 are the tokens, then the bits of the logits
    that they were chosen for, then what is reported."""

    numbers: torch.Tensor
    states: Sequence[SamplingState]
    num_best: int

    def read(self, numbers: torch.Tensor) -> list[SampledToken]:
        """`numbers`, which are on the host now, as tokens."""
        rows = len(self.states)
        are_finite = numbers[rows : 2 * rows].view(torch.float32).isfinite().tolist()
        tokens = [
            SampledToken(
                token_id=token_id if is_finite else NO_TOKEN, logprob=None, top_logprobs=()
            )
            for token_id, is_finite in zip(numbers[:rows].tolist(), are_finite, strict=True)
        ]
        asked = _asked(self.states)
        if not asked:
            return tokens
        count = len(asked) * self.num_best
        ids, values = numbers[2 * rows : 2 * rows + count], numbers[2 * rows + count :]
        best_ids = ids.view(len(asked), -1).tolist()
        best_values = values[:count].view(torch.float32).view(len(asked), -1).tolist()
        of_chosen = values[count:].view(torch.float32).tolist()
        columns = zip(asked, of_chosen, best_ids, best_values, strict=True)
        for row, logprob, row_ids, row_values in columns:
            wanted = self.states[row].sampling.top_logprobs
            best = tuple(zip(row_ids[:wanted], row_values[:wanted], strict=True))
            tokens[row] = SampledToken(
                token_id=tokens[row].token_id, logprob=logprob, top_logprobs=best
            )
        return tokens


def sample(logits: torch.Tensor, states: Sequence[SamplingState]) -> list[SampledToken]:
    """One token for each row of `logits` [rows, vocab_size], which stay as they are."""
    positions = [len(state.token_ids) for state in states]
    counts = TokenCounts(logits.shape[1], logits.device, num_slots=len(states))
    new = counts.plan(states, [None] * len(states))
    counts.add(new, logits.new_empty(0, dtype=torch.int64))
    draws = to_device(draw_arrays(states, positions, new.slots), logits.device)
    scores = adjusted(logits, states, positions)
    chosen = report(logits, choose(scores, draws, counts.table), states, scores)
    return chosen.read(chosen.numbers.cpu())


def draw_arrays(
    states: Sequence[SamplingState],
    positions: Sequence[int],
    slots: Sequence[int],
    room: int | None = None,
    *,
    always: bool = False,
) -> Arrays:
    """How each row is drawn and penalised; nothing if all take the best logit as it is, unless it
    is `always` wanted. `positions` are those of the new tokens, `slots` those of the rows' counts.

    With `room` they are padded to so many rows.
    """
    samplings = [state.sampling for state in states]
    if all(sampling.is_argmax for sampling in samplings) and not always:
        return {}
    columns: dict[str, tuple[Sequence[float], type[np.generic], float]] = {
        "temperatures": ([0.0 if s.greedy else s.temperature for s in samplings], np.float32, 0.0),
        # As int64: the upper half of the unsigned seeds becomes negative with the same bits.
        "seeds": ([(s.seed + 2**63) % 2**64 - 2**63 for s in samplings], np.int64, 0),
        "positions": (positions, np.int64, 0),
        "top_k": ([s.top_k for s in samplings], np.int64, 0),
        "top_p": ([s.top_p for s in samplings], np.float32, 1.0),
        "min_p": ([s.min_p for s in samplings], np.float32, 0.0),
        "slots": (slots, np.int64, 0),
        "repetition": ([s.repetition_penalty for s in samplings], np.float32, 1.0),
        "presence": ([s.presence_penalty for s in samplings], np.float32, 0.0),
        "frequency": ([s.frequency_penalty for s in samplings], np.float32, 0.0),
    }
    arrays = {}
    for name, (values, dtype, filler) in columns.items():
        array = np.full(room or len(values), filler, dtype=dtype)
        array[: len(values)] = values
        arrays[f"draws.{name}"] = array
    return arrays


def choose(
    logits: torch.Tensor, tensors: Mapping[str, torch.Tensor], counts: torch.Tensor
) -> torch.Tensor:
    """A token for each row of `logits`; int64 [rows]. `tensors` hold those of `draw_arrays`,
    `counts` is a `TokenCounts.table`."""
    if "draws.seeds" not in tensors:
        return logits.argmax(-1)
    return sample_tokens(
        logits,
        temperatures=tensors["draws.temperatures"],
        seeds=tensors["draws.seeds"],
        positions=tensors["draws.positions"],
        top_k=tensors["draws.top_k"],
        top_p=tensors["draws.top_p"],
        min_p=tensors["draws.min_p"],
        penalties=Penalties(
            counts=counts,
            slots=tensors["draws.slots"],
            repetition=tensors["draws.repetition"],
            presence=tensors["draws.presence"],
            frequency=tensors["draws.frequency"],
        ),
    )


def adjusted(
    logits: torch.Tensor, states: Sequence[SamplingState], positions: Sequence[int]
) -> torch.Tensor:
    """`logits`, or a copy in float32 with biases, without the tokens that end a request below
    `min_tokens`, and without those that a grammar does not allow. `positions` are those of the new
    tokens. What is launched does not grow with rows."""
    rows = [
        row
        for row, state in enumerate(states)
        if state.sampling.may_change_logits and not state.keeps_logits(positions[row])
    ]
    if not rows:
        return logits
    logits = logits.to(torch.float32, copy=True)
    every, vocab_size = logits.view(-1), logits.shape[1]
    biases = {
        row * vocab_size + token_id: bias
        for row in rows
        for token_id, bias in states[row].sampling.logit_bias.items()
        if token_id < vocab_size
    }
    stops = [
        row * vocab_size + token_id
        for row in rows
        if not states[row].may_end(positions[row])
        for token_id in states[row].sampling.stop_token_ids
        if token_id < vocab_size
    ]
    arrays: Arrays = {
        "biased": np.fromiter(biases.keys(), np.int64, len(biases)),
        "biases": np.fromiter(biases.values(), np.float32, len(biases)),
        "stops": np.array(stops, dtype=np.int64),
    }
    tensors = to_device(arrays, logits.device)
    every.index_add_(0, tensors["biased"], tensors["biases"])
    every.index_fill_(0, tensors["stops"], float("-inf"))
    _keep_allowed(logits, states, rows)
    return logits


def _keep_allowed(
    logits: torch.Tensor, states: Sequence[SamplingState], rows: Sequence[int]
) -> None:
    """While the device still computes the logits, the host finds what grammars allow."""
    masks = {
        row: ~grammar.allowed(states[row].token_ids[states[row].num_prompt_tokens :])
        for row in rows
        if (grammar := states[row].grammar) is not None
    }
    if not masks:
        return
    arrays: Arrays = {
        "rows": np.array(list(masks), dtype=np.int64),
        "forbidden": np.stack(list(masks.values())),
    }
    tensors = to_device(arrays, logits.device)
    kept = logits.index_select(0, tensors["rows"])
    kept.masked_fill_(tensors["forbidden"], float("-inf"))
    logits.index_copy_(0, tensors["rows"], kept)


def report(
    logits: torch.Tensor,
    chosen: torch.Tensor,
    states: Sequence[SamplingState],
    scores: torch.Tensor,
) -> ChosenTokens:
    """The chosen tokens [rows] with the log-probabilities that `states` ask for, on the device.

    Log-probabilities are of `logits`, before biases and penalties; `scores` are after them.
    """
    asked = _asked(states)
    chosen_for = scores.gather(1, chosen.unsqueeze(1)).squeeze(1).float().view(torch.int32)
    if not asked:
        return ChosenTokens(torch.cat((chosen.int(), chosen_for)), states, 0)
    index = _on(logits.device, asked)
    # On GPUs the order of a row's sum depends on whether it begins at a multiple of 16 bytes.
    room = -logits.shape[1] % 4
    wide = functional.pad(logits[index].float(), (0, room), value=float("-inf"))
    logprobs = wide.log_softmax(-1)[:, : logits.shape[1]]
    most = max(states[row].sampling.top_logprobs or 0 for row in asked)
    best = logprobs.topk(min(most, logits.shape[1]), dim=-1)
    of_chosen = logprobs.gather(1, chosen[index].unsqueeze(1))
    floats = torch.cat((best.values.flatten(), of_chosen.flatten())).view(torch.int32)
    numbers = torch.cat((chosen.int(), chosen_for, best.indices.int().flatten(), floats))
    return ChosenTokens(numbers, states, best.indices.shape[1])


def _on(device: torch.device, numbers: Sequence[int]) -> torch.Tensor:
    """As int64. `torch.tensor` would wait for everything launched before."""
    return to_device({"numbers": np.array(numbers, dtype=np.int64)}, device)["numbers"]


def _asked(states: Sequence[SamplingState]) -> list[int]:
    return [row for row, state in enumerate(states) if state.sampling.top_logprobs is not None]

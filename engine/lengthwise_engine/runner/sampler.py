"""How a token is chosen from logits.

Invariant: a token is a function of (logits, sampling parameters, seed, position) and of nothing
else, so a request samples the same tokens whatever batch, worker or retry it runs in. The steps, in
this order: logit bias, penalties, min_tokens, grammar, temperature, top-k, top-p, min-p,
Gumbel-max. Ties at a threshold all stay. Rows that do not need a step do not pay for it, and
nothing here waits for the device but `sample`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import torch

from lengthwise_engine.runner.grammar import GrammarState
from lengthwise_kernels.dispatch import sample_tokens
from lengthwise_kernels.staging import Arrays, to_device
from lengthwise_policy.sampling import SamplingParameters as SamplingParameters

NO_TOKEN: Final = -1
"""In a row whose best logit is not finite: what was computed is broken, or no token is allowed."""

NO_TOKEN_TEXT: Final = (
    "no token can be chosen: the logits are NaN or infinite, or min_tokens or the grammar leave"
    " none; are the weights whole?"
)


@dataclass(slots=True, kw_only=True)
class SamplingState:
    """What the next token of one sequence depends on besides its logits.

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
        """Whether the token at this position is chosen from the logits as they are."""
        sampling = self.sampling
        return not sampling.needs_history and not sampling.logit_bias and self.may_end(position)


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
    """One token for each row of `logits` [rows, vocab_size], float32, which stay as they are."""
    positions = [len(state.token_ids) for state in states]
    draws = to_device(draw_arrays(states, positions), logits.device)
    scores = adjusted(logits, states, positions)
    chosen = report(logits, choose(scores, draws), states, scores)
    return chosen.read(chosen.numbers.cpu())


def draw_arrays(
    states: Sequence[SamplingState],
    positions: Sequence[int],
    room: int | None = None,
    *,
    always: bool = False,
) -> Arrays:
    """What the rows that draw need; nothing if none does, unless it is `always` wanted. `positions`
    are those of the new tokens.

    With `room` they are padded to so many rows; a row of padding draws for row `room`, which
    nothing reads.
    """
    rows = [row for row, state in enumerate(states) if not state.sampling.greedy]
    if not rows and not always:
        return {}
    samplings = [states[row].sampling for row in rows]
    columns: dict[str, tuple[Sequence[float], type[np.generic], float]] = {
        "rows": (rows, np.int64, room or 0),
        "temperatures": ([sampling.temperature for sampling in samplings], np.float32, 1.0),
        # As int64: the upper half of the unsigned seeds becomes negative with the same bits.
        "seeds": ([(sampling.seed + 2**63) % 2**64 - 2**63 for sampling in samplings], np.int64, 0),
        "positions": ([positions[row] for row in rows], np.int64, 0),
        "top_k": ([sampling.top_k for sampling in samplings], np.int64, 0),
        "top_p": ([sampling.top_p for sampling in samplings], np.float32, 1.0),
        "min_p": ([sampling.min_p for sampling in samplings], np.float32, 0.0),
    }
    if room is None and len(rows) == len(states):
        # Nothing has to be picked from the logits.
        del columns["rows"]
    arrays = {}
    for name, (values, dtype, filler) in columns.items():
        array = np.full(room or len(values), filler, dtype=dtype)
        array[: len(values)] = values
        arrays[f"draws.{name}"] = array
    return arrays


def choose(logits: torch.Tensor, tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """A token for each row of `logits`; int64 [rows]. `tensors` hold those of `draw_arrays`."""
    if "draws.seeds" not in tensors:
        return logits.argmax(-1)
    count, rows = len(logits), tensors.get("draws.rows")
    scores = logits if rows is None else logits[rows.clamp(max=count - 1)]
    drawn = sample_tokens(
        scores / tensors["draws.temperatures"].unsqueeze(1),
        seeds=tensors["draws.seeds"],
        positions=tensors["draws.positions"],
        top_k=tensors["draws.top_k"],
        top_p=tensors["draws.top_p"],
        min_p=tensors["draws.min_p"],
    )
    if rows is None:
        return drawn
    # One more than there are rows: for padding.
    chosen = drawn.new_empty(count + 1)
    chosen[:count] = logits.argmax(-1)
    return chosen.index_copy_(0, rows, drawn)[:count]


def adjusted(
    logits: torch.Tensor, states: Sequence[SamplingState], positions: Sequence[int]
) -> torch.Tensor:
    """`logits`, or a copy with biases, penalties, without the tokens that end a request below
    `min_tokens`, and without those that a grammar does not allow. `positions` are those of the new
    tokens."""
    rows = [
        row
        for row, state in enumerate(states)
        if state.sampling.may_change_logits and not state.keeps_logits(positions[row])
    ]
    if not rows:
        return logits
    logits = logits.clone()
    for row in rows:
        state, values = states[row], logits[row]
        sampling = state.sampling
        if sampling.logit_bias:
            _add_biases(values, sampling.logit_bias)
        if sampling.penalised:
            _penalise(values, state)
        if not state.may_end(positions[row]):
            stops = [token_id for token_id in sampling.stop_token_ids if token_id < len(values)]
            values.index_fill_(0, _on(values.device, stops), float("-inf"))
        if state.grammar is not None:
            _keep(values, state.grammar.allowed(state.token_ids[state.num_prompt_tokens :]))
    return logits


def _keep(values: torch.Tensor, allowed: npt.NDArray[np.bool_]) -> None:
    """While the device still computes the logits, the host finds what is allowed."""
    tensor = to_device({"forbidden": ~allowed}, values.device)["forbidden"]
    values.masked_fill_(tensor, float("-inf"))


def _add_biases(values: torch.Tensor, biases: Mapping[int, float]) -> None:
    known = {token_id: bias for token_id, bias in biases.items() if token_id < len(values)}
    arrays: Arrays = {
        "ids": np.fromiter(known.keys(), np.int64, len(known)),
        "biases": np.fromiter(known.values(), np.float32, len(known)),
    }
    tensors = to_device(arrays, values.device)
    values.index_add_(0, tensors["ids"], tensors["biases"])


def _penalise(values: torch.Tensor, state: SamplingState) -> None:
    """Repetition over prompt and output (Hugging Face), the others over the output (OpenAI)."""
    sampling = state.sampling
    seen = _on(values.device, state.token_ids)
    if sampling.repetition_penalty != 1.0:
        before = values[seen]
        penalty = sampling.repetition_penalty
        values[seen] = torch.where(before < 0, before * penalty, before / penalty)
    # Unlike bincount, which asks the device for the largest token.
    output = seen[state.num_prompt_tokens :]
    counts = torch.zeros_like(values).index_add_(
        0, output, torch.ones_like(output, dtype=values.dtype)
    )
    values -= counts * sampling.frequency_penalty + (counts > 0) * sampling.presence_penalty


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
    chosen_for = scores.gather(1, chosen.unsqueeze(1)).squeeze(1).view(torch.int32)
    if not asked:
        return ChosenTokens(torch.cat((chosen.int(), chosen_for)), states, 0)
    index = _on(logits.device, asked)
    logprobs = logits[index].log_softmax(-1)
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

"""Counts of tokens for penalties: those of plain counting, and steps that cost the same for one row
as for many."""

import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from lengthwise_engine.runner import sampler
from lengthwise_engine.runner.sampler import adjusted, choose, draw_arrays, report
from lengthwise_engine.sampling.state import SamplingState
from lengthwise_engine.sampling.token_counts import TokenCounts
from lengthwise_kernels.staging import to_device
from lengthwise_policy.sampling import SamplingParameters

VOCAB_SIZE = 23
PENALISED = SamplingParameters(repetition_penalty=1.1, frequency_penalty=0.2, seed=4)
CPU = torch.device("cpu")


def _state(
    tokens: Sequence[int], prompt: int, sampling: SamplingParameters = PENALISED
) -> SamplingState:
    return SamplingState(sampling=sampling, token_ids=list(tokens), num_prompt_tokens=prompt)


def _expected(tokens: Sequence[int], prompt: int) -> list[int]:
    output = Counter(tokens[prompt:])
    return [2 * output[token] + (token in tokens[:prompt]) for token in range(VOCAB_SIZE)]


def test_counts_are_those_of_the_tokens_whatever_is_known_when_and_whose_slot_is_taken() -> None:
    """Seven sequences share four slots; their last tokens are known, or still on the device."""
    chance = random.Random(3)
    counts = TokenCounts(VOCAB_SIZE, CPU, num_slots=4)

    def some(count: int) -> list[int]:
        return [chance.randrange(VOCAB_SIZE) for _ in range(count)]

    states = [_state(some(length), length - length // 3) for length in range(3, 10)]
    for _ in range(200):
        batch = chance.sample(states, chance.randint(1, 4))
        before = torch.tensor(some(6))
        sources = [chance.choice([None, chance.randrange(6)]) for _ in batch]
        new = counts.plan(batch, sources)
        counts.add(new, before)
        for state, source, slot in zip(batch, sources, new.slots, strict=True):
            assert isinstance(state.token_ids, list)
            if source is not None:
                state.token_ids.append(int(before[source]))
            expected = _expected(state.token_ids, state.num_prompt_tokens)
            assert counts.table[slot].tolist() == expected
            state.token_ids += some(chance.randint(0, 2))
            if chance.random() < 0.05:
                states[states.index(state)] = _state(some(5), 3)
    assert not counts.table[0].any()


def test_a_sequence_that_begins_again_is_counted_anew() -> None:
    counts = TokenCounts(VOCAB_SIZE, CPU)
    state = _state([1, 2, 3, 3], 2)
    for tokens in ([1, 2, 3, 3], [1, 2, 5]):
        state.token_ids = tokens
        new = counts.plan([state, state], [None, None])
        counts.add(new, torch.empty(0, dtype=torch.int64))
        assert len(set(new.slots)) == 1
        assert counts.table[new.slots[0]].tolist() == _expected(tokens, 2)


def test_more_sequences_than_slots_are_refused() -> None:
    counts = TokenCounts(VOCAB_SIZE, CPU, num_slots=2)
    with pytest.raises(ValueError, match="more sequences with penalties than the 2 slots"):
        counts.plan([_state([1], 1) for _ in range(3)], [None] * 3)


class Dispatched(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts operations."""

    count = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        self.count += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    "sampling",
    [
        SamplingParameters(temperature=0.0, repetition_penalty=1.05),
        SamplingParameters(seed=5, top_k=20, presence_penalty=0.3, logit_bias={3: 1.0}),
        SamplingParameters(seed=5, min_tokens=9, stop_token_ids=frozenset({1, 2})),
    ],
    ids=["penalised", "biased too", "not to stop"],
)
def test_a_step_of_many_rows_launches_as_much_as_one_of_one_row(
    sampling: SamplingParameters, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a GPU, where sampling is one kernel."""
    monkeypatch.setattr(sampler, "sample_tokens", lambda logits, **_: logits.argmax(-1))
    launched = []
    for rows in (1, 128):
        counts = TokenCounts(VOCAB_SIZE, CPU)
        states = [_state([1, 2, 3], 2, sampling) for _ in range(rows)]
        logits, tokens = torch.randn(rows, VOCAB_SIZE), torch.arange(rows) % VOCAB_SIZE
        for number in range(2):
            with Dispatched() as dispatched:  # type: ignore[no-untyped-call]
                new = counts.plan(states, list(range(rows)) if number else [None] * rows)
                counts.add(new, tokens)
                ends = [3 + number] * rows
                draws = to_device(draw_arrays(states, ends, new.slots), CPU)
                scores = adjusted(logits, states, ends)
                tokens = choose(scores, draws, counts.table)
                report(logits, tokens, states, scores)
            launched.append(dispatched.count)
    assert launched[:2] == launched[2:]
    assert max(launched) < 40

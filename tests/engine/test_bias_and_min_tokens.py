"""`logit_bias` and `min_tokens` against transformers' own logits processors."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    LogitsProcessorList,
    MinNewTokensLengthLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    SequenceBiasLogitsProcessor,
)

from lengthwise_engine.loaded_model import LoadedModel, load_runner
from lengthwise_engine.runner.sampler import SampledToken, SamplingParameters, SamplingState, sample

VOCAB_SIZE = 50
PROMPT = [4, 7, 7, 30]
BIAS = {3: 2.5, 8: -100.0, 20: 0.75, 41: -1.25}
STOPS = frozenset({5, 17, 33})

Generate = Callable[..., list[list[SampledToken]]]


def processors(
    num_prompt_tokens: int, min_tokens: int, bias: Mapping[int, float], stops: frozenset[int]
) -> LogitsProcessorList:
    """In the order of `transformers.GenerationMixin`."""
    return LogitsProcessorList(
        [
            SequenceBiasLogitsProcessor([[[token_id], value] for token_id, value in bias.items()]),
            RepetitionPenaltyLogitsProcessor(1.3),
            MinNewTokensLengthLogitsProcessor(num_prompt_tokens, min_tokens, sorted(stops)),
        ]
    )


@pytest.mark.parametrize("num_generated", range(6))
def test_greedy_tokens_are_those_of_the_processors(num_generated: int) -> None:
    generator = torch.Generator().manual_seed(num_generated)
    logits = 3 * torch.randn(64, VOCAB_SIZE, generator=generator)
    output = torch.randint(VOCAB_SIZE, (num_generated,), generator=generator).tolist()
    sequence = [*PROMPT, *output]
    state = SamplingState(
        sampling=SamplingParameters(
            temperature=0.0,
            repetition_penalty=1.3,
            min_tokens=3,
            logit_bias=BIAS,
            stop_token_ids=STOPS,
        ),
        token_ids=sequence,
        num_prompt_tokens=len(PROMPT),
    )
    sequences: Any = torch.tensor([sequence] * len(logits))
    expected = processors(len(PROMPT), 3, BIAS, STOPS)(sequences, logits.clone())
    tokens = [token.token_id for token in sample(logits, [state] * len(logits))]
    assert tokens == expected.argmax(-1).tolist()
    assert bool(STOPS & set(tokens)) is (num_generated >= 3)
    assert 8 not in tokens


def test_a_stop_token_is_never_drawn_too_early() -> None:
    """Whatever the other parameters narrow, and where it is all but certain."""
    logits = torch.zeros(400, VOCAB_SIZE)
    logits[:, 5] = 1000.0
    for narrowing in ({}, {"top_k": 2}, {"top_p": 0.1}, {"min_p": 0.5}):
        options: dict[str, Any] = {"min_tokens": 3, "stop_token_ids": STOPS, **narrowing}
        for num_generated, may_stop in ((2, False), (3, True)):
            states = [
                SamplingState(
                    sampling=SamplingParameters(seed=seed, **options),
                    token_ids=[1] * (4 + num_generated),
                    num_prompt_tokens=4,
                )
                for seed in range(len(logits))
            ]
            tokens = {token.token_id for token in sample(logits, states)}
            assert tokens == {5} if may_stop else not tokens & STOPS


def test_log_probabilities_stay_those_of_the_model() -> None:
    logits = torch.randn(1, VOCAB_SIZE, generator=torch.Generator().manual_seed(1))
    sampling = SamplingParameters(
        temperature=0.0,
        logit_bias={9: 100.0},
        min_tokens=1,
        stop_token_ids=STOPS,
        top_logprobs=VOCAB_SIZE,
    )
    state = SamplingState(sampling=sampling, token_ids=[1], num_prompt_tokens=1)
    (token,) = sample(logits, [state])
    assert token.token_id == 9
    values = dict(token.top_logprobs)
    expected = logits[0].log_softmax(-1).tolist()
    assert [values[token_id] for token_id in range(VOCAB_SIZE)] == pytest.approx(expected)
    assert token.logprob == pytest.approx(expected[9])


@pytest.mark.parametrize("chunk_size", [7, 40])
def test_greedy_text_is_that_of_transformers(
    make_checkpoint: Callable[..., Path], generate: Generate, chunk_size: int
) -> None:
    folder = make_checkpoint("qwen3")
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    prompt = [(7 * i) % 250 for i in range(40)]
    plain = _continued(model, prompt, num_tokens=12)
    # The model would say both early on.
    stops, bias = frozenset(plain[:2]), {plain[4]: -100.0, 200: 1.5, 31: 0.5}
    expected = _continued(
        model,
        prompt,
        num_tokens=12,
        min_new_tokens=6,
        eos_token_id=sorted(stops),
        sequence_bias=[[[token_id], value] for token_id, value in bias.items()],
    )
    sampling = SamplingParameters(
        temperature=0.0, min_tokens=6, logit_bias=bias, stop_token_ids=stops
    )
    loaded: LoadedModel = load_runner(folder, device="cpu", num_blocks=16, kv_memory_bytes=0)
    (tokens,) = generate(loaded, [prompt], 12, samplings=[sampling], chunk_sizes=[chunk_size])
    got = [token.token_id for token in tokens]
    assert got[: len(expected)] == expected
    assert len(expected) >= 6
    assert expected[:2] != plain[:2]
    assert not stops & set(expected[:6])


def _continued(model: Any, prompt: list[int], *, num_tokens: int, **options: Any) -> list[int]:
    """Greedily, by transformers."""
    options = {"eos_token_id": None, "pad_token_id": 0, **options}
    ids = model.generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.int64),
        do_sample=False,
        max_new_tokens=num_tokens,
        **options,
    )
    text: list[int] = ids[0, len(prompt) :].tolist()
    return text

"""Tokens that a grammar allows: those that a text of it can go on with, and no others."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from llguidance import LLMatcher, LLParserLimits, LLTokenizer, TokenizerWrapper

from lengthwise_engine.runner.sampler import NO_TOKEN, SamplingState, sample
from lengthwise_engine.sampling.grammar import GrammarState
from lengthwise_policy.sampling import SamplingParameters

TOKENS = [*(bytes([value]) for value in range(256)), b"yes", b"no", b"ye", b"es", b" n", b"<end>"]
END = len(TOKENS) - 1
VOCABULARY = len(TOKENS) + 7  # models have rows that no token uses

CHOICES = ["yes", "yes no", "no", "naïve"]
GRAMMAR = LLMatcher.grammar_from_lark("start: " + " | ".join(f'"{text}"' for text in CHOICES))


class _Tokens:
    eos_token_id = END
    bos_token_id = None
    tokens = TOKENS
    special_token_ids = (END,)

    def __call__(self, data: bytes) -> list[int]:
        return list(data)


@pytest.fixture(scope="module")
def tokenizer() -> LLTokenizer:
    return LLTokenizer(TokenizerWrapper(_Tokens()), n_vocab=VOCABULARY, slices=[])


def state(tokenizer: LLTokenizer, grammar: str) -> GrammarState:
    limits = LLParserLimits(verbose_errors=False)
    return GrammarState(LLMatcher(tokenizer, grammar, limits=limits, log_level=0), VOCABULARY)


def test_what_is_allowed_leads_to_all_texts_and_to_no_others(tokenizer: LLTokenizer) -> None:
    """Where only one text can follow, one of its tokenisations is enough."""
    ways: list[list[int]] = [[]]
    texts = set()
    while ways:
        way = ways.pop()
        text = b"".join(TOKENS[token_id] for token_id in way)
        allowed = np.flatnonzero(state(tokenizer, GRAMMAR).allowed(way)).tolist()
        assert allowed, "no way ends in the middle"
        for token_id in allowed:
            if token_id == END:
                texts.add(text.decode())
            else:
                assert any(
                    choice.encode().startswith(text + TOKENS[token_id]) for choice in CHOICES
                )
                ways.append([*way, token_id])
    assert texts == set(CHOICES)


def test_it_is_the_same_whether_tokens_come_one_by_one_or_at_once(tokenizer: LLTokenizer) -> None:
    """As after a preemption, or where another worker goes on."""
    way = [ord("n"), *"ïve".encode()]
    one_by_one = state(tokenizer, GRAMMAR)
    for length in range(len(way) + 1):
        at_once = state(tokenizer, GRAMMAR).allowed(way[:length])
        assert (one_by_one.allowed(way[:length]) == at_once).all()


def sampled(logits: torch.Tensor, grammar: GrammarState, output: Sequence[int]) -> int:
    sampling = SamplingParameters(temperature=0.0, grammar="some", logit_bias={END: -100.0})
    chosen = sample(
        logits.unsqueeze(0),
        [
            SamplingState(
                sampling=sampling, token_ids=[5, 6, *output], num_prompt_tokens=2, grammar=grammar
            )
        ],
    )
    return chosen[0].token_id


def test_the_best_allowed_token_is_sampled_however_unlikely(tokenizer: LLTokenizer) -> None:
    logits = torch.zeros(VOCABULARY)
    logits[TOKENS.index(b"ye")] = -50.0
    logits[TOKENS.index(b"no")] = logits[TOKENS.index(b"yes")] = -60.0
    logits[[ord("y"), ord("n")]] = -70.0
    before = logits.clone()
    grammar = state(tokenizer, GRAMMAR)
    assert sampled(logits, grammar, []) == TOKENS.index(b"ye")
    assert sampled(logits, grammar, [TOKENS.index(b"ye")]) == ord("s")
    assert (logits == before).all(), "log-probabilities are of what the model said"


def test_after_a_whole_text_only_its_end_is_left(tokenizer: LLTokenizer) -> None:
    grammar = state(tokenizer, GRAMMAR)
    assert sampled(torch.zeros(VOCABULARY), grammar, [TOKENS.index(b"no")]) == END


def test_tokens_that_are_not_of_the_grammar_end_the_request(tokenizer: LLTokenizer) -> None:
    grammar = state(tokenizer, GRAMMAR)
    assert sampled(torch.zeros(VOCABULARY), grammar, [ord("x")]) == NO_TOKEN
    assert grammar.failure.startswith("constraint: ")
    assert grammar.failure.endswith("byte 'x' fails parse")


def test_a_grammar_that_explodes_ends_the_request(tokenizer: LLTokenizer) -> None:
    grammar = state(tokenizer, LLMatcher.grammar_from_regex("(a?){1000}a{1000}"))
    output: list[int] = []
    while grammar.allowed(output).any():
        output.append(ord("a"))
        assert len(output) < 50
    assert "too many expressions" in grammar.failure

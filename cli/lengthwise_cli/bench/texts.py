"""Prompts whose tokens are equal where the texts of a trace are."""

from random import Random

from lengthwise_simulator.workload.text import Text


class PromptTexts:
    """Of one vocabulary; of another seed, all tokens are others."""

    def __init__(self, vocab_size: int, seed: int) -> None:
        self._vocabulary = range(vocab_size)
        self._seed = seed

    def token_ids(self, text: Text, num_tokens: int) -> list[int]:
        """The first `num_tokens`; a text's last span goes on for as long as it is asked to."""
        tokens: list[int] = []
        for number, (key, span_tokens) in enumerate(text, 1):
            missing = num_tokens - len(tokens)
            count = missing if number == len(text) else min(span_tokens, missing)
            tokens += Random(f"{self._seed}/{key}").choices(self._vocabulary, k=count)
        return tokens

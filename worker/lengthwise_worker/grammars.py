"""Grammars of requests, made ready for the sampler off the event loop."""

import asyncio
from collections import OrderedDict
from pathlib import Path
from threading import Lock

from llguidance import LLMatcher, LLParserLimits, LLTokenizer

from lengthwise_checkpoint.errors import CheckpointError
from lengthwise_checkpoint.text.end_tokens import read_end_tokens
from lengthwise_checkpoint.tokenizer import read_text_files
from lengthwise_engine.sampling.grammar import GrammarState, reason_of
from lengthwise_wire.errors import InvalidRequest

MAX_KEPT = 32
"""Compiled grammars. Callers send the same few again and again; a copy takes microseconds, a large
schema 0.3 s."""


class Grammars:
    """Of one model. What a grammar may cost was bounded at the router."""

    def __init__(self, folder: Path, vocab_size: int) -> None:
        """`folder`: of the checkpoint. Its tokenizer is read when the first grammar comes: that of
        150,000 tokens takes 1 s and 100 MiB."""
        self._folder = folder
        self._vocab_size = vocab_size
        self._tokenizer: LLTokenizer | None = None
        self._compiled: OrderedDict[str, LLMatcher] = OrderedDict()
        self._lock = Lock()

    async def state(self, grammar: str) -> GrammarState | None:
        """None: anything may follow. Errors: InvalidRequest."""
        if not grammar:
            return None
        return await asyncio.to_thread(self._state, grammar)

    def _state(self, grammar: str) -> GrammarState:
        with self._lock:
            matcher = self._compiled.pop(grammar, None) or self._compile(grammar)
            self._compiled[grammar] = matcher
            if len(self._compiled) > MAX_KEPT:
                self._compiled.popitem(last=False)
            return GrammarState(matcher.deep_copy(), self._vocab_size)

    def _compile(self, grammar: str) -> LLMatcher:
        limits = LLParserLimits(verbose_errors=False)
        matcher = LLMatcher(self._read_tokenizer(), grammar, limits=limits, log_level=0)
        matcher.compute_bitmask()  # the first takes the longest: not between two steps
        if matcher.is_error():
            raise InvalidRequest(f"constraint: {reason_of(matcher)}")
        return matcher

    def _read_tokenizer(self) -> LLTokenizer:
        if self._tokenizer is None:
            try:
                text = read_text_files(self._folder)
                ends = read_end_tokens(self._folder, text, self._vocab_size)
                self._tokenizer = LLTokenizer(
                    text.tokenizer.to_str(), n_vocab=self._vocab_size, eos_token=list(ends)
                )
            except (CheckpointError, ValueError) as error:
                raise InvalidRequest(f"constraint: not with this tokenizer: {error}") from error
        return self._tokenizer

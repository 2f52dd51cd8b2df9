"""Which tokens may follow, where the output has to be of a grammar.

Invariant: what is allowed is a function of (grammar, tokens so far), so a request that is tried
again, preempted or resumed needs nothing but its tokens.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from llguidance import LLMatcher


class GrammarState:
    """Of one sequence. Not for two threads at once."""

    def __init__(self, matcher: LLMatcher, vocab_size: int) -> None:
        """`matcher` has consumed nothing."""
        self._matcher = matcher
        self._vocab_size = vocab_size
        self._num_consumed = 0
        self.failure = ""
        """Why nothing is allowed any more: the grammar has become too large to follow."""

    def allowed(self, output: Sequence[int]) -> npt.NDArray[np.bool_]:
        """For each token of the vocabulary, whether it may come after `output`, which only grows.
        None may after tokens that are not of the grammar, nor once it has failed."""
        matcher = self._matcher
        matcher.consume_tokens(list(output[self._num_consumed :]))
        self._num_consumed = len(output)
        # One bit for each token, in words of 32; none once something has failed.
        bits = np.frombuffer(matcher.compute_bitmask(), dtype=np.uint8)
        if matcher.is_error():
            self.failure = f"constraint: {reason_of(matcher)}"
            return np.zeros(self._vocab_size, dtype=np.bool_)
        return np.unpackbits(bits, bitorder="little", count=self._vocab_size).view(np.bool_)


def refusal_of(grammar: GrammarState | None) -> str:
    """Why no token could be chosen, where the request is at fault; else empty."""
    return "" if grammar is None else grammar.failure


def reason_of(matcher: LLMatcher) -> str:
    """Why it has failed, on one line."""
    return " ".join(matcher.get_error().partition("<non-verbose")[0].split())[:200]

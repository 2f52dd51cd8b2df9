"""What callers ask, each question named by its number, and what the right answer is."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from harness.toy_oracle import toy_continuation

from lengthwise_checkpoint.toy import ToySpec

CHARACTERS = range(32, 127)
"""Prompts are printable ASCII, as answers are: a token is a character."""

SAMPLED_PROMPTS = 12
SHARE_WITH_STOPS = 0.08
SHARE_ABANDONED = 0.06


@dataclass(frozen=True, slots=True, kw_only=True)
class SoakQuestion:
    """Greedy without a seed. `abandon_seconds`: the caller leaves then, whatever has come."""

    prompt: tuple[int, ...]
    max_tokens: int
    stop: tuple[str, ...] = ()
    seed: int | None = None
    abandon_seconds: float | None = None


class Mix:
    """Mixed lengths: most short, some long, some with a shared beginning; some for one token, some
    for hundreds; some with stop strings, some abandoned, some sampled."""

    def __init__(self, seed: int, spec: ToySpec) -> None:
        self._seed = seed
        self._spec = spec
        rng = random.Random(seed)
        # Few bodies behind a new beginning each time: no cache knows the prompt, but the sums of
        # its answer are quick to compute.
        self._medium = [_text(rng, rng.randint(60, 400)) for _ in range(8)]
        self._long = [_text(rng, rng.randint(800, 3000)) for _ in range(8)]
        self._shared = [_text(rng, rng.randint(160, 640)) for _ in range(4)]
        self._sampled = [
            SoakQuestion(prompt=_text(rng, rng.randint(5, 400)), max_tokens=40, seed=n)
            for n in range(SAMPLED_PROMPTS)
        ]
        self._known: dict[tuple[tuple[int, ...], int], tuple[int, ...]] = {}

    def question(self, number: int) -> SoakQuestion:
        """The same for the same seed and number."""
        rng = random.Random(f"{self._seed}/{number}")
        question = self._drawn(rng)
        if question.seed is None and rng.random() < SHARE_WITH_STOPS:
            question = replace(question, stop=self._stops(rng, question))
        if rng.random() < SHARE_ABANDONED:
            return replace(question, abandon_seconds=rng.uniform(0.0, 0.5))
        return question

    def answer(self, question: SoakQuestion) -> tuple[int, ...] | None:
        """All tokens, as if nothing stopped it; None for what was sampled and not seen before."""
        if question.seed is not None:
            return self._known.get((question.prompt, question.seed))
        return tuple(toy_continuation(question.prompt, question.max_tokens, self._spec))

    def mistake(self, question: SoakQuestion, tokens: Sequence[int], text: str, reason: str) -> str:
        """What is wrong with an answer, empty if nothing. `reason`: why it ended; empty: it did
        not."""
        right = self.answer(question)
        if right is None:
            assert question.seed is not None
            if reason:
                self._known[question.prompt, question.seed] = tuple(tokens)
            return ""
        right_text = bytes(right).decode("ascii")
        cuts = [at for stop in question.stop if (at := right_text.find(stop)) >= 0]
        right_reason = "stop" if cuts else "length"
        right_text = right_text[: min(cuts, default=None)]
        if tuple(tokens) != right[: len(tokens)]:
            return f"tokens {list(tokens)}, expected {list(right)}"
        if not reason:
            return "" if right_text.startswith(text) else f"text {text!r}, expected {right_text!r}"
        if (text, reason) != (right_text, right_reason):
            return f"{reason} after {text!r}, expected {right_reason} after {right_text!r}"
        if not cuts and len(tokens) != len(right):
            return f"{len(tokens)} tokens, expected {len(right)}"
        return ""

    def _drawn(self, rng: random.Random) -> SoakQuestion:
        begin = _text(rng, 4)
        share = rng.random()
        if share < 0.45:
            return _ask(_text(rng, rng.randint(1, 60)), rng.randint(2, 40))
        if share < 0.65:
            return _ask(begin + rng.choice(self._medium), rng.randint(8, 60))
        if share < 0.75:
            return _ask(begin + rng.choice(self._long), rng.randint(4, 24))
        if share < 0.85:
            return _ask(rng.choice(self._shared) + _text(rng, rng.randint(8, 60)), 24)
        if share < 0.89:
            return _ask(_text(rng, rng.randint(1, 300)), 1)
        if share < 0.94:
            return _ask(_text(rng, rng.randint(1, 60)), rng.randint(150, 400))
        return rng.choice(self._sampled)

    def _stops(self, rng: random.Random, question: SoakQuestion) -> tuple[str, ...]:
        """One or more, of which about half occur in the answer."""
        text = bytes(toy_continuation(question.prompt, question.max_tokens, self._spec)).decode()
        stops = [bytes(_text(rng, 4)).decode() for _ in range(rng.randint(1, 4))]
        if rng.random() < 0.5:
            at = rng.randrange(len(text))
            stops[0] = text[at : at + rng.randint(1, 3)]
        return tuple(stops)


def _ask(prompt: tuple[int, ...], max_tokens: int) -> SoakQuestion:
    return SoakQuestion(prompt=prompt, max_tokens=max_tokens)


def _text(rng: random.Random, length: int) -> tuple[int, ...]:
    return tuple(rng.choices(CHARACTERS, k=length))

"""What clients ask for: conversations with lengths of a real trace, scaled to a model's context.

Pure: equal arguments give equal traffic. The rules: a conversation fits the context; lengths are
dealt like cards, so that any 64 turns hold one of each 64th of the trace and two seeds bring about
the same work (drawn independently, 200 turns of this trace differ by 15 % in tokens).
"""

import csv
import itertools
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal

from traces import open_trace

LengthClass = Literal["short", "long"]

SHORT_TOKENS: Final = 256
"""Requests with more tokens to compute are long, in every arm; the system's own boundary moves."""

LONG_PROMPT_TOKENS: Final = 1000
"""Prompts of the mix `long_only` have at least so many tokens."""

HOMOGENEOUS_TOKENS: Final = 128
CARDS: Final = 64
MEAN_TURNS: Final = 4.0
MEAN_THINK_SECONDS: Final = 1.0
MEAN_ANSWER_SECONDS: Final = 0.8
"""Guess of how long an answer takes; it only decides how many conversations are under way when
the warm-up begins."""

REPLY_SCALE: Final = 0.05
"""Replies against those of the trace. There is one decode worker here where such traffic gets
several: with 0.1 it is busier than the prefill worker once history is reused (0.68 of a core at 7.3
requests/s without reuse, the prefill worker 0.82), and requests would wait for nothing else."""

MIN_REPLY_TOKENS: Final = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Lengths:
    """Tokens of a prompt and of its reply."""

    prompt_tokens: int
    reply_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """What a user says, how long the reply is, and how long the user thought before."""

    user_tokens: int
    reply_tokens: int
    think_seconds: float  # 0 for the first turn


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    """Turns one after the other; the prompt of each is everything before it and what is new."""

    seed: int
    start_at: float  # seconds after the traffic's beginning
    turns: tuple[Turn, ...]

    def new_tokens(self, turn: int) -> int:
        """Tokens of the prompt of a turn that were not in the prompt of the turn before."""
        before = self.turns[turn - 1].reply_tokens if turn else 0
        return before + self.turns[turn].user_tokens

    def length_class(self, turn: int) -> LengthClass:
        return "short" if self.new_tokens(turn) <= SHORT_TOKENS else "long"

    def says(self, turn: int, vocab_size: int) -> list[int]:
        """Token ids of what the user says: random, and the same whenever it is asked."""
        draw = random.Random(f"{self.seed}/{turn}")
        return [draw.randrange(vocab_size) for _ in range(self.turns[turn].user_tokens)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mix:
    """A kind of traffic."""

    name: str
    num_turns: float = 1.0  # mean; 1: each conversation is a single request
    variation: float = 1.0  # coefficient of variation of the times between starts; 1: Poisson
    shortest_prompt: int = 1  # of those dealt
    prompt_tokens: int = 0  # of every prompt; 0: as the trace


MULTI_TURN = Mix(name="multi_turn", num_turns=MEAN_TURNS)
HOMOGENEOUS = Mix(name="homogeneous", prompt_tokens=HOMOGENEOUS_TOKENS)
LONG_ONLY = Mix(name="long_only", shortest_prompt=LONG_PROMPT_TOKENS)
BURSTS = Mix(name="bursts", num_turns=MEAN_TURNS, variation=4.0)


def read_lengths(path: Path) -> list[Lengths]:
    """The rows of a trace with columns prompt_tokens and output_tokens.

    Errors: ValueError naming the file and what it lacks.
    """
    with open_trace(path) as file:
        reader = csv.DictReader(file)
        missing = {"prompt_tokens", "output_tokens"} - set(reader.fieldnames or ())
        if missing:
            raise ValueError(f"{path}: expected columns prompt_tokens, output_tokens; no {missing}")
        rows = [
            Lengths(prompt_tokens=int(row["prompt_tokens"]), reply_tokens=int(row["output_tokens"]))
            for row in reader
        ]
    if len(rows) < CARDS:
        raise ValueError(f"{path}: {len(rows)} rows, expected at least {CARDS}")
    return rows


def scale(rows: Sequence[Lengths], context_length: int) -> list[Lengths]:
    """Lengths for a model: the trace's 99th percentile of prompts becomes half of the context,
    longer ones are cut to it, and replies keep a 20th, a 16th of the context at most."""
    prompts = sorted(row.prompt_tokens for row in rows)
    longest = context_length // 2
    factor = longest / prompts[len(prompts) * 99 // 100]
    return [
        Lengths(
            prompt_tokens=max(1, min(longest, round(row.prompt_tokens * factor))),
            reply_tokens=max(
                MIN_REPLY_TOKENS, min(context_length // 16, round(row.reply_tokens * REPLY_SCALE))
            ),
        )
        for row in rows
    ]


def deal(rows: Sequence[Lengths], draw: random.Random) -> Iterator[Lengths]:
    """Rows without end: of any `CARDS` from the beginning of a deck, one of each quantile."""
    ordered = sorted(rows, key=lambda row: row.prompt_tokens)
    while True:
        deck = list(range(CARDS))
        draw.shuffle(deck)
        for card in deck:
            yield ordered[int((card + draw.random()) * len(ordered) / CARDS)]


def start_times(draw: random.Random, number: int, seconds: float, variation: float) -> list[float]:
    """Times of a renewal process with Gamma intervals, given that `number` fall into `seconds`.

    The number is given because load would be drawn with it: 20 starts are 20 +- 4.5 otherwise.
    """
    ends = list(
        itertools.accumulate(draw.gammavariate(variation**-2, 1.0) for _ in range(number + 1))
    )
    return [end / ends[-1] * seconds for end in ends[:-1]]


def conversations(
    mix: Mix, rows: Sequence[Lengths], *, context_length: int, seed: int
) -> Iterator[Conversation]:
    """Conversations without end, all starting at 0. `rows` are scaled already."""
    draw = random.Random(f"{mix.name}/{seed}")
    chosen = [_of_mix(mix, row) for row in rows if row.prompt_tokens >= mix.shortest_prompt]
    if not chosen:
        raise ValueError(f"{mix.name}: the trace has no prompt of {mix.shortest_prompt} tokens")
    cards = deal(chosen, draw)
    card = next(cards)
    while True:
        turns: list[Turn] = []
        room = context_length
        goes_on = True
        while goes_on and card.prompt_tokens + card.reply_tokens <= room:
            think = draw.expovariate(1.0 / MEAN_THINK_SECONDS) if turns else 0.0
            turn = Turn(
                user_tokens=card.prompt_tokens, reply_tokens=card.reply_tokens, think_seconds=think
            )
            turns.append(turn)
            room -= turn.user_tokens + turn.reply_tokens
            # One that does not fit begins the next conversation: no card is lost.
            card = next(cards)
            goes_on = draw.random() < 1.0 - 1.0 / mix.num_turns
        yield Conversation(seed=draw.getrandbits(63), start_at=0.0, turns=tuple(turns))


def open_loop(
    mix: Mix,
    rows: Sequence[Lengths],
    *,
    context_length: int,
    seed: int,
    rate: float,
    seconds: float,
) -> list[Conversation]:
    """Conversations that start by themselves for `seconds`, `rate` requests a second on average.

    Those that would be under way at the beginning start in the first quarter of a mean life: the
    number of turns is geometric, so what is left of a conversation is as long as a new one.
    """
    draw = random.Random(f"{mix.name}/starts/{seed}")
    mean_turns = mean_turns_of(mix, rows, context_length)
    life = (mean_turns - 1.0) * (MEAN_THINK_SECONDS + MEAN_ANSWER_SECONDS)
    starts_per_second = rate / mean_turns
    starts = [draw.uniform(0.0, life / 4) for _ in range(round(starts_per_second * life))]
    starts += start_times(draw, round(starts_per_second * seconds), seconds, mix.variation)
    source = conversations(mix, rows, context_length=context_length, seed=seed)
    return [replace(next(source), start_at=start) for start in sorted(starts)]


def mean_turns_of(mix: Mix, rows: Sequence[Lengths], context_length: int) -> float:
    """Turns of a conversation, the context's end considered; within 2 % or so."""
    if mix.num_turns == 1.0:
        return 1.0
    source = conversations(mix, rows, context_length=context_length, seed=0)
    sample = [len(next(source).turns) for _ in range(4000)]
    return math.fsum(sample) / len(sample)


def _of_mix(mix: Mix, row: Lengths) -> Lengths:
    return replace(row, prompt_tokens=mix.prompt_tokens) if mix.prompt_tokens else row

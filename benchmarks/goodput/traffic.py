"""One list of arrivals, which every arm plays: lengths of a real trace, scaled to a small model.

Pure: equal arguments give equal lists.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from lengthwise_simulator.workload.traces import read_trace

SCALE: Final = 4
MAX_OUTPUT_TOKENS: Final = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """One request of an open loop."""

    at: float  # seconds after the play's beginning
    seed: int  # of the prompt's token ids
    prompt_tokens: int
    output_tokens: int

    def token_ids(self, vocab_size: int) -> list[int]:
        draw = random.Random(self.seed)
        return [draw.randrange(vocab_size) for _ in range(self.prompt_tokens)]


def read_lengths(path: Path) -> list[tuple[int, int]]:
    """Tokens of prompt and output, a quarter of the trace's; outputs are cut at 128.

    Errors: SimulationError, OSError.
    """
    return [
        (
            max(1, round(row.prompt_tokens / SCALE)),
            max(1, min(MAX_OUTPUT_TOKENS, round(row.output_tokens / SCALE))),
        )
        for row in read_trace(path)
    ]


def poisson(
    lengths: Sequence[tuple[int, int]], *, rate: float, count: int, seed: int
) -> list[Arrival]:
    """`count` requests with exponential gaps; their lengths are drawn without replacement.

    The same seed gives the same requests at every rate, in the same order with the same gaps but
    for their scale: rungs of a ladder differ in nothing else.
    """
    draw = random.Random(seed)
    chosen = draw.sample(lengths, count)
    arrivals, at = [], 0.0
    for prompt_tokens, output_tokens in chosen:
        at += draw.expovariate(1.0) / rate
        arrivals.append(
            Arrival(
                at=at,
                seed=draw.getrandbits(63),
                prompt_tokens=prompt_tokens,
                output_tokens=output_tokens,
            )
        )
    return arrivals

"""How well a worker's own fit tells what its steps take: a small Llama on one core. Run `python -m
simulation.live.steps`, one minute; a row goes to benchmarks/data/own_fits.csv, beside those that
`simulation.profiles` makes of costs that were calculated, measured elsewhere and published.

The fit sees some hundred steps of all kinds, then each of the ten is run again and again.
"""

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Final

import torch
from random_llama import random_llama
from rows import append_rows

from lengthwise_engine.loaded_model import load_runner
from lengthwise_engine.runner.base import ModelRunner, SequenceChunk
from lengthwise_engine.runner.sampler import SamplingParameters, SamplingState
from lengthwise_simulator.cost.profile import Chunk, measured_by_workers
from simulation.profiles import STEPS, fit_row

HIDDEN: Final = 256
LAYERS: Final = 4
BLOCK_SIZE: Final = 16
LONGEST: Final = 8192
MOST_ROWS: Final = 64
NUM_BLOCKS: Final = (MOST_ROWS + 1) * LONGEST // BLOCK_SIZE
REPEATS: Final = 7
GREEDY: Final = SamplingParameters(temperature=0.0)


class RunSteps:
    """Takes the place of a cost profile: a step takes the processor time that it takes now, for
    others run on the core too."""

    def __init__(self, runner: ModelRunner) -> None:
        self._runner = runner

    def step_seconds(self, chunks: Sequence[Chunk], requests: int, context: int) -> float:
        steps = [(context // requests - 1, 1)] * requests if requests else []
        steps += [(history, new) for new, history in chunks]
        made = [self._chunk(place, *each) for place, each in enumerate(steps)]
        began_at = time.process_time()
        self._runner.run(made)
        return time.process_time() - began_at

    def _chunk(self, place: int, start: int, new: int) -> SequenceChunk:
        """What lies in the cache before `start` does not matter to time."""
        token_ids = [(7 * at + place) % 250 + 2 for at in range(start + new)]
        first = place * LONGEST // BLOCK_SIZE
        return SequenceChunk(
            token_ids=token_ids[start:],
            start=start,
            block_ids=list(range(first, first - (-(start + new) // BLOCK_SIZE))),
            sampling=SamplingState(
                sampling=GREEDY, token_ids=token_ids, num_prompt_tokens=start + new
            ),
        )


class MedianSteps:
    """Of several runs."""

    def __init__(self, steps: RunSteps) -> None:
        self._steps = steps

    def step_seconds(self, chunks: Sequence[Chunk], requests: int, context: int) -> float:
        return median(self._steps.step_seconds(chunks, requests, context) for _ in range(REPEATS))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dry", action="store_true", help="records nothing")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        path = random_llama(
            Path(folder) / "llama", hidden=HIDDEN, layers=LAYERS, vocab_size=320,
            max_position_embeddings=2 * LONGEST,
        )  # fmt: skip
        runner = load_runner(
            path, device="cpu", num_blocks=NUM_BLOCKS, block_size=BLOCK_SIZE
        ).runner
        steps = RunSteps(runner)
        for work in STEPS.values():
            steps.step_seconds(*work)  # what is made once is made
        fit = measured_by_workers(
            steps, longest_prompt=LONGEST, most_requests=MOST_ROWS, chunk_tokens=LONGEST
        )
        row = fit_row(f"llama {HIDDEN}x{LAYERS}, one core", "measured", fit, MedianSteps(steps))
    print(*row.values(), sep=" | ")
    if not asked.dry:
        append_rows("own_fits", [row])


if __name__ == "__main__":
    main()

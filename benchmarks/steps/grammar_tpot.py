"""What holding every row to a JSON schema adds to a decode step.

Run `python -m steps.grammar_tpot`; it appends to benchmarks/data/grammar_tpot.csv. The shape of
Qwen2.5-0.5B (0.36 B without the vocabulary of 151,936) with random weights in bfloat16, one core, 8
rows, drawn and greedy. Each step is computed twice at equal positions, for rows that are free and
for rows that are held to schemas of `structured_output`, in alternating order; a row that ends
begins again with another schema. `cpu` is by the thread's own time, which other
processes do not lengthen by taking the core; so is `mask`, what `GrammarState.allowed` takes for
one row.

Budget: held, at most 5 % more than free (ratio of medians).
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from random import Random
from statistics import median, quantiles
from time import perf_counter, thread_time

import numpy as np
import numpy.typing as npt
import torch
from front_door.structured_output import VOCABULARY, large_tokenizer, schema
from llguidance import LLMatcher
from random_models.models import BLOCK, SHAPES, random_model
from rows import append_rows

from lengthwise_engine.runner.base import SequenceChunk
from lengthwise_engine.runner.sampler import SamplingParameters, SamplingState
from lengthwise_engine.runner.torch_runner import TorchRunner
from lengthwise_engine.sampling.grammar import GrammarState

SHAPE = "Qwen2.5-0.5B"
ROWS = 8
PROMPT = 64
MOST_OUTPUT = 192
BATCH_BLOCKS = ROWS * (PROMPT + MOST_OUTPUT) // BLOCK
BUDGET = 1.05
END = VOCABULARY - 1


class TimedGrammar(GrammarState):
    """Remembers what it took."""

    def __init__(self, matcher: LLMatcher, microseconds: list[float]) -> None:
        super().__init__(matcher, VOCABULARY)
        self._microseconds = microseconds

    def allowed(self, output: Sequence[int]) -> npt.NDArray[np.bool_]:
        began_at = thread_time()
        result = super().allowed(output)
        self._microseconds.append((thread_time() - began_at) * 1e6)
        return result


class Batch:
    """Sequences of one prompt each, in blocks of their own."""

    def __init__(self, runner: TorchRunner, first_block: int, sampling: SamplingParameters) -> None:
        self._runner = runner
        blocks = (PROMPT + MOST_OUTPUT) // BLOCK
        begins = [first_block + row * blocks for row in range(ROWS)]
        self._blocks = [range(begin, begin + blocks) for begin in begins]
        self.states = [
            SamplingState(
                sampling=replace(sampling, seed=row),
                token_ids=[(7 * row + position) % 256 for position in range(PROMPT)],
                num_prompt_tokens=PROMPT,
            )
            for row in range(ROWS)
        ]
        for state, block_ids in zip(self.states, self._blocks, strict=True):
            prompt = state.token_ids[:-1]
            runner.run(
                [SequenceChunk(token_ids=prompt, start=0, block_ids=block_ids, sampling=None)]
            )

    def step(self) -> tuple[float, float]:
        """Milliseconds, and those of this thread; every sequence is one token longer then."""
        began_at, own_began_at = perf_counter(), thread_time()
        sampled = self._runner.run(
            [
                SequenceChunk(
                    token_ids=state.token_ids[-1:],
                    start=len(state.token_ids) - 1,
                    block_ids=block_ids,
                    sampling=state,
                )
                for state, block_ids in zip(self.states, self._blocks, strict=True)
            ]
        )
        taken = (perf_counter() - began_at) * 1e3, (thread_time() - own_began_at) * 1e3
        for state, token in zip(self.states, sampled, strict=True):
            assert token is not None
            state.token_ids = [*state.token_ids, token.token_id]
        return taken


def grammars(random: Random) -> list[LLMatcher]:
    """Ready, as a worker's are."""
    tokenizer, result = large_tokenizer(random), []
    for _ in range(64):
        grammar = LLMatcher.grammar_from_json_schema(
            schema(random), overrides={"whitespace_flexible": False}
        )
        matcher = LLMatcher(tokenizer, grammar)
        matcher.compute_bitmask()
        result.append(matcher)
    return result


def measure(
    runner: TorchRunner, matchers: list[LLMatcher], temperature: float, num_pairs: int
) -> dict[str, object]:
    random = Random(1)
    sampling = SamplingParameters(temperature=temperature)
    free = Batch(runner, 0, sampling)
    held = Batch(runner, BATCH_BLOCKS, replace(sampling, grammar="a schema"))
    masks: list[float] = []
    taken: dict[Batch, list[tuple[float, float]]] = {free: [], held: []}
    for pair in range(num_pairs):
        for twin, state in zip(free.states, held.states, strict=True):
            has_ended = state.token_ids[-1] == END
            if has_ended or state.grammar is None or len(state.token_ids) == PROMPT + MOST_OUTPUT:
                state.grammar = TimedGrammar(random.choice(matchers).deep_copy(), masks)
                for each in (twin, state):
                    each.token_ids = each.token_ids[:PROMPT]
        for batch in (free, held) if pair % 2 else (held, free):
            taken[batch].append(batch.step())
    free_ms, free_cpu_ms = (median(column) for column in zip(*taken[free], strict=True))
    held_ms, held_cpu_ms = (median(column) for column in zip(*taken[held], strict=True))
    times = quantiles(masks, n=100)
    return {
        "shape": SHAPE,
        "rows": ROWS,
        "temperature": temperature,
        "pairs": num_pairs,
        "free_ms": f"{free_ms:.1f}",
        "held_ms": f"{held_ms:.1f}",
        "ratio": f"{held_ms / free_ms:.3f}",
        "free_cpu_ms": f"{free_cpu_ms:.1f}",
        "held_cpu_ms": f"{held_cpu_ms:.1f}",
        "cpu_ratio": f"{held_cpu_ms / free_cpu_ms:.3f}",
        "budget": BUDGET,
        "mask_p50_us": f"{times[49]:.1f}",
        "mask_p99_us": f"{times[98]:.1f}",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=100)
    pairs = parser.parse_args().pairs
    torch.set_num_threads(1)
    matchers = grammars(Random(0))
    model = random_model(SHAPES[SHAPE], "cpu", torch.bfloat16)
    runner = TorchRunner(model.decoder, model.cache(2 * BATCH_BLOCKS))
    rows = [measure(runner, matchers, temperature, pairs) for temperature in (1.0, 0.0)]
    for row in rows:
        print(row)
    append_rows("grammar_tpot", rows)


if __name__ == "__main__":
    main()

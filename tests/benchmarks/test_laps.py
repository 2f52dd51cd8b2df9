"""LAPS' sweep in small: lengths, the closed loop, and the rows."""

import itertools
from collections.abc import Callable, Sequence

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed")
from gpu.scale import TINY
from gpu.task import Deadline
from laps.lengths import QUANTILES, prompt_lengths, quantile
from laps.loop import ClosedLoop
from laps.sweep import SETTINGS, laps_tasks
from random_models.engines import Engine, Engines
from random_models.generate import random_prompts

from lengthwise_engine.kv.layout import KVLayout
from lengthwise_engine.runner.base import ModelRunner, PendingStep, SampledToken, SequenceChunk


@pytest.fixture(scope="module")
def engine() -> Engine:
    torch.set_num_threads(1)
    return Engines(TINY.shapes, TINY.device, TINY.dtype).get("tiny", 200)


class Watched:
    """A runner that notes the prompts of each step."""

    def __init__(self, runner: ModelRunner) -> None:
        self._runner = runner
        self.steps: list[Sequence[SequenceChunk]] = []

    @property
    def layout(self) -> KVLayout:
        return self._runner.layout

    @property
    def runs_ahead(self) -> bool:
        return self._runner.runs_ahead

    def launch(
        self, chunks: Sequence[SequenceChunk], on_layer: Callable[[int], None] | None = None
    ) -> PendingStep:
        self.steps.append(list(chunks))
        return self._runner.launch(chunks, on_layer)

    def run(
        self, chunks: Sequence[SequenceChunk], on_layer: Callable[[int], None] | None = None
    ) -> list[SampledToken | None]:
        return self.launch(chunks, on_layer).tokens()


def test_lengths_are_those_of_the_published_distribution() -> None:
    lengths = prompt_lengths(500, seed=1)
    assert sum(lengths) / 500 == pytest.approx(92.2, rel=0.05)  # the mean of the 100,000 published
    assert [quantile(share) for share, _ in QUANTILES] == [tokens for _, tokens in QUANTILES]
    assert sorted(lengths) == sorted(prompt_lengths(500, seed=2))
    assert lengths != prompt_lengths(500, seed=2)


@pytest.mark.parametrize("setting", SETTINGS)
def test_every_prompt_is_computed_once_and_no_more_at_a_time_than_clients(
    engine: Engine, setting: str
) -> None:
    runner = Watched(engine.runner(graphs=False))
    prompts = random_prompts([3, 40, 17, 700, 5, 64, 1, 33], 128)
    policy = SETTINGS[setting].policy
    played = ClosedLoop(runner, policy, engine.cache.num_blocks).play(prompts, 3)
    assert len(played.ttft_seconds) == len(prompts)
    assert 0 < min(played.ttft_seconds) <= max(played.ttft_seconds) <= played.seconds
    assert played.num_batches == len(runner.steps)
    assert max(map(len, runner.steps)) <= 3
    computed = sum(len(c.token_ids) for c in itertools.chain.from_iterable(runner.steps))
    assert computed == sum(map(len, prompts))


@pytest.mark.slow
def test_a_sweep_has_each_setting_at_each_concurrency_as_often_as_asked_for() -> None:
    (task,) = laps_tasks(TINY)
    rows = list(task.run(Deadline.after(60)))
    cells = [(row["setting"], row["concurrency"], row["repeat"]) for row in rows]
    assert sorted(cells) == sorted(itertools.product(SETTINGS, TINY.laps_concurrencies, (1, 2)))
    assert all(row["tokens_per_second"] > 0 for row in rows)
    assert all(row["batches"] > row["replayed"] == 0 for row in rows)  # a CPU has no graphs
    assert all(row["ttft_p99_ms"] >= row["ttft_p50_ms"] > 0 for row in rows)
    # 1,152 + 1,024 + 2,048 + 4,608 weights: two layers of qkv, output, gate and up, and down.
    weights = 2 * (32 * 64 + 32 * 32 + 3 * 32 * 48)
    assert rows[0]["limit_tokens_per_second"] == pytest.approx(790e12 / (2 * weights), rel=1e-6)

"""Which graphs the memory for them holds."""

import random
from collections.abc import Callable

import numpy as np
import pytest
import torch

from lengthwise_engine.runner.graph_recorder import Body, Graph
from lengthwise_engine.runner.graph_shapes import GraphPlan
from lengthwise_engine.runner.graphs import StepCounts, StepGraphs, Tensors
from lengthwise_engine.runner.step_tensors import StepLayout
from lengthwise_kernels.dispatch import AttentionForm, PaddedShape

GIB = 1 << 30
VOCABULARY = 152_064
OUTPUT_BYTES = 256 * 4 * VOCABULARY
DEFAULT = GraphPlan(memory_bytes=2 * GIB - OUTPUT_BYTES)
"""What workers have by default, less the output, which is small here to save the test's time."""


class SharedPool:
    """A recorder whose graphs allocate from one pool, which is as large as the largest needs."""

    def __init__(self, step_bytes: Callable[[], int]) -> None:
        self._step_bytes = step_bytes
        self._pool = 0

    def measure(self, body: Body) -> int:
        body()
        return self._step_bytes()

    def capture(self, body: Body) -> Graph:
        body()
        self._pool = max(self._pool, self._step_bytes())
        return Replayed()

    def pool_bytes(self) -> int:
        return self._pool


class Replayed:
    def replay(self) -> None:
        pass


class Model:
    """Graphs of a model of these sizes that computes nothing."""

    def __init__(
        self,
        plan: GraphPlan,
        sizes: tuple[int, int, int] = (64, 64, 2),
        agree: Callable[[bool], bool] = bool,
    ) -> None:
        self._hidden, self._inner, layers = sizes
        self._step_bytes = 0
        self.counts = StepCounts()
        self.graphs = StepGraphs(
            SharedPool(lambda: self._step_bytes),
            self._compute,
            agree,
            plan,
            device=torch.device("cpu"),
            dtype=torch.float32,
            vocab_size=1,
            num_layers=layers,
            most_blocks=2048,
            counts=self.counts,
        )

    def run(self, shape: PaddedShape) -> bool:
        """Whether the step was replayed."""
        # In bfloat16: the gate's inputs and output, the residual and what is added; then float32
        # logits, and a copy.
        self._step_bytes = 2 * shape.tokens * (3 * self._inner + 3 * self._hidden)
        self._step_bytes += 2 * 4 * shape.sequences * VOCABULARY
        sampled = np.zeros(shape.sequences, dtype=np.int64)
        layout = StepLayout(
            form=shape,  # type: ignore[arg-type]
            arrays={"sampled": sampled, "tables": np.zeros(1, dtype=np.int32)},
        )
        *_, replayed = self.graphs.compute(layout, shape, lambda tensors: None)
        return replayed

    def _compute(self, form: AttentionForm, tensors: Tensors) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.zeros(1, 1), torch.zeros(1, dtype=torch.int64)


SEVEN = (3584, 18_944, 28)
THIRTY_TWO = (5120, 27_648, 64)
"""Hidden and inner size, and layers, of Qwen2.5-7B and 32B."""


@pytest.mark.parametrize("order", ["planned", "smallest-first", 1, 2])
def test_the_default_budget_holds_all_planned_shapes_in_any_order(order: str | int) -> None:
    model = Model(DEFAULT, SEVEN)
    shapes = DEFAULT.shapes()
    if order == "smallest-first":
        shapes.reverse()
    elif isinstance(order, int):
        random.Random(order).shuffle(shapes)
    model.graphs.captures = True
    for shape in shapes:
        model.run(shape)
    assert model.counts.graphs == len(shapes)
    assert model.graphs.missed == 0
    assert model.counts.graph_bytes <= DEFAULT.memory_bytes


def test_what_gains_most_gets_the_memory_that_does_not_hold_all() -> None:
    """64 layers take the driver 50 MB a graph."""
    model = Model(DEFAULT, THIRTY_TWO)
    model.graphs.captures = True
    shapes = DEFAULT.shapes()
    for shape in shapes:
        model.run(shape)
    assert 0 < model.graphs.missed == len(shapes) - model.counts.graphs
    model.graphs.captures = False
    assert all(model.run(shape) for shape in shapes if shape.rows)
    assert model.counts.graph_bytes <= DEFAULT.memory_bytes


def test_a_shape_that_does_not_fit_locks_no_smaller_one_out() -> None:
    """4,096 tokens of a model of 32B."""
    plan = GraphPlan(memory_bytes=GIB // 2, rows=(1, 8), prompt_tokens=(64, 4096))
    model = Model(plan, THIRTY_TWO)
    model.graphs.captures = True
    for shape in plan.shapes():
        model.run(shape)
    captured = [model.run(shape) for shape in plan.shapes()]
    assert captured == [shape.tokens < 4096 for shape in plan.shapes()]
    assert model.graphs.missed == 2  # each time that it came


def test_nothing_is_captured_once_a_worker_serves() -> None:
    plan = GraphPlan(memory_bytes=GIB, rows=(1, 8), prompt_tokens=(64,))
    model = Model(plan)
    shapes = plan.shapes()
    model.graphs.captures = True
    for shape in shapes[1:]:
        model.run(shape)
    model.graphs.captures = False
    trace = random.Random(3).choices(shapes, k=200)
    for shape in trace:
        assert model.run(shape) is (shape != shapes[0])
    assert model.counts.graphs == len(shapes) - 1
    assert model.graphs.padded_shape([1]) is not None
    assert model.graphs.padded_shape([1] * 3) is None
    assert model.graphs.padded_shape([50] * 40) is None


@pytest.mark.parametrize("fact", [0, 1], ids=["fits", "was-captured"])
def test_what_one_rank_lacks_no_rank_keeps(fact: int) -> None:
    """The others have no room for it, or none left when they recorded it."""
    asked = list[bool]()

    def agree(mine: bool) -> bool:
        asked.append(mine)
        return mine and len(asked) != fact + 1

    model = Model(DEFAULT, agree=agree)
    model.graphs.captures = True
    shape = DEFAULT.shapes()[-1]
    assert not model.run(shape)
    assert model.counts.graphs == 0
    assert not model.run(shape)
    assert model.counts.graphs == 1

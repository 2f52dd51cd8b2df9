"""The few shapes that steps are padded to."""

import pytest

from lengthwise_engine.runner.graph_shapes import GraphPlan

PLAN = GraphPlan(memory_bytes=1)


@pytest.mark.parametrize(
    ("lengths", "expected"),
    [
        ([1] * 3, (4, 4, 4)),
        ([1] * 9, (16, 16, 16)),
        ([1] * 257, None),
        ([16] * 64, (1024, 64, 0)),
        ([2] * 65, None),
        ([257], None),
        ([256, 40], (384, 8, 0)),
        ([5, 1], (272, 20, 16)),
        ([1] * 17 + [64] * 4, (320, 68, 64)),
        ([1, 200, 57], None),
        ([1, 2, 2, 2, 2, 2], None),
        ([1] * 129 + [5], None),
    ],
    ids=[
        "pad",
        "by-eight",
        "many",
        "laps",
        "too-many",
        "long",
        "third",
        "mixed",
        "rows-and-four-chunks",
        "mixed-too-long",
        "mixed-too-many-chunks",
        "mixed-too-many-rows",
    ],
)  # fmt: skip
def test_padded_shapes(lengths: list[int], expected: tuple[int, int, int] | None) -> None:
    found = PLAN.padded(lengths)
    assert (found and (found.tokens, found.sequences, found.rows)) == expected


def test_every_shape_that_a_step_may_be_padded_to_is_captured() -> None:
    planned = set(PLAN.shapes())
    for prompts in range(1, 66):
        for length in (2, 3, 7, 30, 100, 256):
            for rows in (0, 1, 16, 17, 100, 200):
                found = PLAN.padded([1] * rows + [length] * prompts)
                assert found is None or found in planned
                if not rows:
                    found = PLAN.padded([1] * prompts)
                    assert found in planned


def test_without_rows_or_prompts_nothing_is_planned_for_them() -> None:
    plan = GraphPlan(memory_bytes=1, rows=(1,), prompt_tokens=())
    assert [(shape.tokens, shape.rows) for shape in plan.shapes()] == [(1, 1)]
    assert plan.padded([1, 1]) is None
    assert plan.padded([1, 5]) is None
    assert plan.padded([5]) is None

"""Seconds of steps that overlap."""

import pytest

from lengthwise_worker.step_loop import StepClock


@pytest.mark.parametrize(
    ("late", "expected"),
    [
        pytest.param([0, 0, 0], [4.0, 3.0, 3.0], id="never"),
        pytest.param([0, 1, 0, 0], [4.0, None, None, 3.0], id="held up for a step"),
        pytest.param([1, 1, 0, 0], [None, None, None, 3.0], id="held up for two"),
        pytest.param([1, 1, 1, 1], [None, None, 3.0, 3.0], id="always"),
    ],
)
def test_a_step_begins_when_the_one_before_has_ended(
    late: list[int], expected: list[float | None]
) -> None:
    clock = StepClock()
    reported = [
        clock.seconds(launched_at=3.0 * step - 4, read_at=3.0 * step, is_late=bool(is_late))
        for step, is_late in enumerate(late)
    ]
    assert reported == expected


def test_a_step_after_a_pause_begins_with_its_launch() -> None:
    clock = StepClock()
    clock.seconds(launched_at=1.0, read_at=3.0, is_late=False)
    assert clock.seconds(launched_at=7.0, read_at=9.0, is_late=False) == 2.0

"""The few shapes that steps are padded to."""

import pytest

from lengthwise_engine.runner.graph_shapes import padded_shape


@pytest.mark.parametrize(
    ("lengths", "expected"),
    [
        ([1] * 3, (4, 4, False)),
        ([1] * 9, (16, 16, False)),
        ([1] * 257, None),
        ([64] * 64, (4096, 64, True)),
        ([64] * 65, None),
        ([257], None),
        ([256, 40], (320, 2, True)),
        ([5, 1], None),
    ],
    ids=["pad", "by-eight", "many", "laps", "too-many", "long", "quarter", "mixed"],
)
def test_padded_shapes(lengths: list[int], expected: tuple[int, int, bool] | None) -> None:
    found = padded_shape(lengths)
    assert (found and (found.tokens, found.sequences, found.prompts)) == expected

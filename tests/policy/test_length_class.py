"""Length classes: where the boundary lies."""

import pytest

from lengthwise_policy.length_class import LengthClass, length_class


@pytest.mark.parametrize(
    ("num_tokens", "boundary", "expected"),
    [
        pytest.param(1, 256, "short", id="one token"),
        pytest.param(256, 256, "short", id="the boundary itself"),
        pytest.param(257, 256, "long", id="one more"),
        pytest.param(1, 0, "long", id="boundary 0: everything is long"),
    ],
)
def test_the_boundary_belongs_to_the_short_class(
    num_tokens: int, boundary: int, expected: LengthClass
) -> None:
    assert length_class(num_tokens, boundary) == expected


def test_the_default_boundary_is_256_residual_tokens() -> None:
    assert (length_class(256), length_class(257)) == ("short", "long")

"""What a status says is read as it is meant."""

import pytest

from lengthwise import Client, LatencyHistogram
from lengthwise.fake import FakeTransport


def histogram(*counts: int) -> LatencyHistogram:
    return LatencyHistogram(
        measure="ttft", length_class="short", upper_bounds=(1.0, 2.0, 4.0), counts=counts
    )


@pytest.mark.parametrize(
    ("counts", "share", "expected"),
    [
        pytest.param((0, 0, 0, 0), 0.5, None, id="no requests"),
        pytest.param((4, 0, 0, 0), 0.5, 0.5, id="the middle of the only bucket"),
        pytest.param((4, 0, 0, 0), 1.0, 1.0, id="its upper bound"),
        pytest.param((1, 1, 2, 0), 0.75, 3.0, id="within a later bucket"),
        pytest.param((1, 0, 1, 0), 0.5, 1.0, id="an edge, not the empty bucket after it"),
        pytest.param((0, 0, 0, 9), 0.5, 4.0, id="beyond all bounds: the highest"),
    ],
)
def test_a_quantile_is_interpolated_within_its_bucket(
    counts: tuple[int, ...], share: float, expected: float | None
) -> None:
    assert histogram(*counts).quantile(share) == expected


def test_the_fake_has_a_status() -> None:
    with Client(transports=[FakeTransport()]) as client:
        assert [model.model for model in client.status().models] == ["fake"]

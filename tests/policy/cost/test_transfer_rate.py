"""How fast KV leaves, as the status reports it."""

import pytest

from lengthwise_policy.cost.transfer_rate import TransferRate


def test_nothing_is_reported_before_anything_was_moved() -> None:
    assert TransferRate().bytes_per_second == 0.0


def test_large_transfers_count_by_their_bytes() -> None:
    rate = TransferRate()
    for _ in range(100):
        rate.moved(100_000_000, 0.1)
        rate.moved(1_000, 0.001)
    assert rate.bytes_per_second == pytest.approx(1e9, rel=0.02)


def test_a_link_that_became_slow_is_noticed() -> None:
    rate = TransferRate()
    for _ in range(100):
        rate.moved(1_000_000, 0.001)
    for _ in range(60):
        rate.moved(1_000_000, 0.1)
    assert rate.bytes_per_second == pytest.approx(1e7, rel=0.1)

"""What the prefill service refuses at its edge, before anything is queued."""

import pytest

from lengthwise_prefill_worker.service import check_destination
from lengthwise_wire.errors import InvalidRequest
from lengthwise_wire.v1 import prefill_pb2


@pytest.mark.parametrize("cached", [0, 16, 96])
def test_whole_blocks_before_the_last_token_may_lie_at_the_decode_worker(cached: int) -> None:
    check_destination(
        prefill_pb2.KVDestination(num_cached_tokens=cached), num_tokens=100, block_size=16
    )


@pytest.mark.parametrize(
    "cached",
    [
        pytest.param(15, id="not whole blocks"),
        pytest.param(112, id="more than the prompt"),
    ],
)
def test_other_numbers_of_tokens_there_are_refused(cached: int) -> None:
    destination = prefill_pb2.KVDestination(num_cached_tokens=cached)
    with pytest.raises(InvalidRequest, match=f"num_cached_tokens: got {cached}"):
        check_destination(destination, num_tokens=100, block_size=16)


def test_the_last_token_is_never_there() -> None:
    destination = prefill_pb2.KVDestination(num_cached_tokens=96)
    with pytest.raises(InvalidRequest, match="below the 96 tokens"):
        check_destination(destination, num_tokens=96, block_size=16)

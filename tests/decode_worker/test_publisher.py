"""What is published for a router reaches it, in order, and before the end of its stream."""

import pytest

from lengthwise_decode_worker.publisher import Publisher
from lengthwise_decode_worker.stepping.rows import RouterRows
from lengthwise_wire.errors import NoWorkerAvailable
from lengthwise_wire.v1 import decode_pb2


def _ended(reservation: int) -> RouterRows:
    rows = RouterRows()
    rows.ended.append(decode_pb2.Ended(reservation=reservation, error="going away"))
    return rows


async def test_what_was_published_while_a_batch_was_on_its_way_comes_before_the_end() -> None:
    publisher = Publisher()
    batches = publisher.stream("router")
    assert await anext(batches) == decode_pb2.TokenBatch()
    publisher.publish("router", _ended(1))
    first = await anext(batches)
    publisher.publish("router", _ended(2))
    publisher.close()
    second = await anext(batches)
    assert [[row.reservation for row in batch.ended] for batch in (first, second)] == [[1], [2]]
    with pytest.raises(NoWorkerAvailable, match="going away"):
        await anext(batches)
    assert not publisher.is_open("router")

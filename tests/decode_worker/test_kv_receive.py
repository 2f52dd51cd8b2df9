"""What has arrived is held against what a commit says was sent."""

from dataclasses import dataclass, field

import pytest
from prometheus_client import CollectorRegistry

from lengthwise_decode_worker.kv.arrival import Arrival
from lengthwise_decode_worker.kv.link import PrefillLink
from lengthwise_decode_worker.kv.receive import KVReceive
from lengthwise_engine.kv.layout import KVLayout
from lengthwise_engine.transfer.base import Piece, Received, combine_checksums
from lengthwise_policy.types import RequestId
from lengthwise_wire.v1 import decode_pb2
from lengthwise_worker.metrics import WorkerMetrics

LAYOUT = KVLayout(num_layers=2, num_kv_heads=1, head_dim=4, block_size=16, dtype="float32")
CHECKSUMS = (11, 22)


class Receiver:
    """Takes every piece, and delivers none: a test does."""

    rendezvous = "127.0.0.1:1"

    def accept(self, link: str) -> None: ...

    def receive(
        self, link: str, sequence: int, key: str, piece: Piece | None, num_bytes: int
    ) -> None: ...

    def discard(self, key: str) -> None: ...

    def close(self, link: str) -> None: ...


@dataclass
class Listener:
    """How arrivals ended."""

    committed: list[int] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    def on_committed(self, arrival: Arrival, first_token_id: int) -> None:
        self.committed.append(first_token_id)

    def on_failed(self, arrival: Arrival, error: str) -> None:
        self.failed.append(error)

    def on_drained(self, arrival: Arrival) -> None:
        raise AssertionError("nothing was stopped")


class Transfer:
    """One request of one block, which comes in a piece for each of two layers."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.listener = Listener()
        self.receive = KVReceive(
            receiver=Receiver(),
            layout=LAYOUT,
            num_blocks=4,
            metrics=WorkerMetrics(self.registry, "decode"),
        )
        self.link: PrefillLink = self.receive.open_link("link")
        self.arrival = Arrival(
            request_id=RequestId("router/7"),
            router_id="router",
            reservation=7,
            epoch=1,
            block_ids=(3,),
            first_block=0,
            listener=self.listener,
        )
        self.receive.expect(self.arrival)

    async def deliver(self) -> None:
        for layer, checksum in enumerate(CHECKSUMS):
            await self.receive.announce(
                self.link,
                decode_pb2.Announce(
                    sequence=layer,
                    router_id="router",
                    reservation=7,
                    epoch=1,
                    first_layer=layer,
                    num_layers=1,
                    num_blocks=1,
                    num_bytes=LAYOUT.block_bytes,
                ),
            )
            self.receive.on_event(
                Received(link="link", sequence=layer, key=self.arrival.key, checksum=checksum)
            )

    def commit(self, **wrong: int) -> str:
        """The answer to a commit that is right but for what is given."""
        values = {
            "num_pieces": len(CHECKSUMS),
            "num_bytes": 2 * LAYOUT.block_bytes,
            "checksum": combine_checksums(CHECKSUMS),
        }
        self.receive.commit(
            self.link,
            decode_pb2.Commit(
                router_id="router", reservation=7, epoch=1, first_token_id=5, **(values | wrong)
            ),
        )
        return self.link.replies[-1].committed.error

    @property
    def mismatches(self) -> float | None:
        return self.registry.get_sample_value(
            "lengthwise_kv_transfer_failures_total", {"role": "decode", "reason": "mismatch"}
        )


async def test_what_has_arrived_as_it_was_sent_is_committed() -> None:
    transfer = Transfer()
    await transfer.deliver()
    assert transfer.commit() == ""
    assert transfer.listener == Listener(committed=[5])
    assert transfer.mismatches == 0


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"num_pieces": 3}, "KV pieces: sent 3, announced 2"),
        ({"num_pieces": 0}, "KV pieces: sent 0, announced 2"),
        ({"num_bytes": 1}, f"KV bytes: sent 1, announced {2 * LAYOUT.block_bytes}, expected"),
        ({"checksum": 1}, "KV checksum: sent 0000000000000001, received"),
    ],
    ids=["a piece more", "no pieces", "bytes", "checksum"],
)
async def test_a_commit_that_differs_from_what_arrived_fails_the_transfer(
    wrong: dict[str, int], error: str
) -> None:
    transfer = Transfer()
    await transfer.deliver()
    assert transfer.commit(**wrong).startswith(error)
    assert transfer.listener.committed == []
    assert [each.startswith(error) for each in transfer.listener.failed] == [True]
    assert transfer.mismatches == 1

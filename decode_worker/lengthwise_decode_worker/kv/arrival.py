"""One attempt (epoch) to fill one reservation's blocks."""

from dataclasses import dataclass, field
from typing import Protocol

from lengthwise_decode_worker.kv.link import PrefillLink
from lengthwise_engine.kv.layout import KVLayout
from lengthwise_engine.transfer.base import combine_checksums
from lengthwise_policy.types import RequestId
from lengthwise_wire.v1 import decode_pb2


class ArrivalListener(Protocol):
    """Is notified of how an arrival ends, once."""

    def on_committed(self, arrival: "Arrival", first_token_id: int) -> None:
        """Every block is in place."""

    def on_failed(self, arrival: "Arrival", error: str) -> None:
        """It will not be whole; nothing writes to its blocks any more."""

    def on_drained(self, arrival: "Arrival") -> None:
        """After `KVReceive.stop` returned True: nothing writes to its blocks any more."""


@dataclass(slots=True, kw_only=True, eq=False)
class Arrival:
    """Its pieces all come over one link."""

    request_id: RequestId
    router_id: str
    reservation: int
    epoch: int
    block_ids: tuple[int, ...]
    """The prompt's blocks."""
    first_block: int
    """The blocks before it hold their KV already: others use them, nothing may write there."""
    listener: ArrivalListener
    link: PrefillLink | None = None
    announced: int = 0
    announced_bytes: int = 0
    checksums: list[int] = field(default_factory=list)
    commit: decode_pb2.Commit | None = None
    started_at: float = 0.0

    @property
    def key(self) -> str:
        return f"{self.request_id}/{self.epoch}"

    @property
    def is_receiving(self) -> bool:
        """Whether a transfer may still write to the blocks."""
        return len(self.checksums) < self.announced

    def mismatch(self, commit: decode_pb2.Commit, layout: KVLayout) -> str:
        """Why what has arrived is not what was sent; empty when it is."""
        if commit.num_pieces != self.announced:
            return f"KV pieces: sent {commit.num_pieces}, announced {self.announced}"
        missing = len(self.block_ids) - self.first_block
        expected = layout.num_layers * missing * layout.block_bytes
        if not commit.num_bytes == self.announced_bytes == expected:
            return (
                f"KV bytes: sent {commit.num_bytes}, announced {self.announced_bytes},"
                f" expected {expected}"
            )
        checksum = combine_checksums(self.checksums)
        if checksum != commit.checksum:
            return f"KV checksum: sent {commit.checksum:016x}, received {checksum:016x}"
        return ""

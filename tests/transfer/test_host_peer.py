"""A link through shared memory believes nothing of its peer that cannot be, nor waits for ever."""

import socket
import threading
from collections.abc import Iterator

import pytest
from harness.transfer import LAYOUT, NUM_BLOCKS, new_cache

from lengthwise_engine.kv.shards import KVShards
from lengthwise_engine.transfer.base import Piece
from lengthwise_engine.transfer.blocks.host_blocks import HostBlocks
from lengthwise_engine.transfer.frames import FrameError, Offer, Pulled, Ready, frame
from lengthwise_engine.transfer.links import host_peer
from lengthwise_engine.transfer.links.host_peer import HostPeer, Source

CACHE = new_cache(1)
SOURCE = Source(shards=KVShards.of(CACHE), blocks=HostBlocks(CACHE))
PIECE = Piece(first_layer=0, num_layers=2, block_ids=(3, 1))
NUM_BYTES = PIECE.num_bytes(LAYOUT)


@pytest.fixture
def connections() -> Iterator[tuple[socket.socket, socket.socket]]:
    ends = socket.socketpair()
    yield ends
    for end in ends:
        end.close()


@pytest.fixture
def peer(connections: tuple[socket.socket, socket.socket]) -> HostPeer:
    return HostPeer(connections[0], 0.05, SOURCE)


def test_offers_come_in_the_order_in_which_they_are_wanted(peer: HostPeer) -> None:
    other = Piece(first_layer=0, num_layers=1, block_ids=(9,))
    data = frame(Offer(sequence=0, piece=PIECE)) + frame(Offer(sequence=1, piece=other))
    peer.hear(data[:50])
    peer.hear(data[50:])
    assert peer.next_offer(0, NUM_BYTES) == PIECE
    assert peer.next_offer(1, other.num_bytes(LAYOUT)) == other


def test_pulls_are_told_until_the_last(peer: HostPeer) -> None:
    for is_last in (False, True):
        peer.hear(frame(Pulled(sequence=4, is_last=is_last)))
        assert peer.is_pulled(4) is is_last


@pytest.mark.parametrize(
    ("offer", "problem"),
    [
        pytest.param(Offer(sequence=1, piece=PIECE), "offer of piece 0", id="another number"),
        pytest.param(Pulled(sequence=0, is_last=True), "offer of piece 0", id="another message"),
        pytest.param(
            Offer(sequence=0, piece=Piece(first_layer=0, num_layers=2, block_ids=(1, 2, 3))),
            "are announced",
            id="another size",
        ),
        pytest.param(
            Offer(sequence=0, piece=Piece(first_layer=0, num_layers=2, block_ids=(1, NUM_BLOCKS))),
            "blocks below",
            id="a block beyond the cache",
        ),
        pytest.param(
            Offer(sequence=0, piece=Piece(first_layer=2, num_layers=2, block_ids=(1, 2))),
            "3 layers",
            id="a layer beyond the cache",
        ),
        pytest.param(Ready(), "offer of piece 0", id="a message for others"),
    ],
)
def test_an_offer_that_cannot_be_is_an_error(
    peer: HostPeer, offer: Offer | Pulled | Ready, problem: str
) -> None:
    peer.hear(frame(offer))
    with pytest.raises((FrameError, ValueError), match=problem):
        peer.next_offer(0, NUM_BYTES)


def test_a_pull_of_something_else_is_an_error(peer: HostPeer) -> None:
    peer.hear(frame(Pulled(sequence=3, is_last=True)))
    with pytest.raises(FrameError, match="pull of piece 2"):
        peer.is_pulled(2)


def test_a_peer_that_says_nothing_is_waited_for_in_bounded_time(peer: HostPeer) -> None:
    with pytest.raises(TimeoutError, match=r"nothing for 0\.05 s"):
        peer.is_pulled(0)


def test_a_peer_that_does_not_listen_is_talked_to_in_bounded_time(peer: HostPeer) -> None:
    def talk() -> None:
        for sequence in range(1_000_000):
            peer.say(Offer(sequence=sequence, piece=PIECE))

    with pytest.raises(TimeoutError):
        talk()


def test_a_peer_that_says_more_than_anybody_takes_is_an_error(
    peer: HostPeer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host_peer, "MAX_HEARD", 3)
    pulled = frame(Pulled(sequence=0, is_last=False))
    peer.hear(3 * pulled)
    with pytest.raises(FrameError, match="3 messages of the peer wait"):
        peer.hear(pulled)


def test_hanging_up_wakes_whoever_waits(
    connections: tuple[socket.socket, socket.socket],
) -> None:
    peer = HostPeer(connections[0], 30.0, None)
    threading.Timer(0.05, peer.hang_up).start()
    with pytest.raises(ConnectionError, match="went down"):
        peer.is_pulled(0)

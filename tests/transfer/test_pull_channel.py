"""A link through shared memory believes nothing of its peer that cannot be, nor waits for ever."""

import socket
import threading
from collections.abc import Iterator

import pytest
from transfer.ends import LAYOUT, NUM_BLOCKS, new_cache

from lengthwise_engine.kv.shards import KVShards
from lengthwise_engine.transfer.base import Piece
from lengthwise_engine.transfer.blocks.host_blocks import HostBlocks
from lengthwise_engine.transfer.frames import FrameError, frame
from lengthwise_engine.transfer.links import pull_channel
from lengthwise_engine.transfer.links.base import Incoming
from lengthwise_engine.transfer.links.pull_channel import PullChannel
from lengthwise_engine.transfer.links.pull_link import PullReceiver
from lengthwise_engine.transfer.messages import Offer, Pulled, Receive

CACHE = new_cache(1)
BLOCKS = HostBlocks(CACHE)
PIECE = Piece(first_layer=0, num_layers=2, block_ids=(3, 1))
NUM_BYTES = PIECE.num_bytes(LAYOUT)


@pytest.fixture
def connections() -> Iterator[tuple[socket.socket, socket.socket]]:
    ends = socket.socketpair()
    yield ends
    for end in ends:
        end.close()


@pytest.fixture
def channel(connections: tuple[socket.socket, socket.socket]) -> PullChannel:
    return PullChannel(connections[0], 0.05)


def test_offers_come_in_the_order_in_which_they_are_wanted(channel: PullChannel) -> None:
    other = Piece(first_layer=0, num_layers=1, block_ids=(9,))
    data = frame(Offer(sequence=0, piece=PIECE)) + frame(Offer(sequence=1, piece=other))
    channel.receive_data(data[:50])
    channel.receive_data(data[50:])
    assert channel.next_offer(0) == PIECE
    assert channel.next_offer(1) == other


def test_each_message_that_was_pulled_is_waited_for(channel: PullChannel) -> None:
    for _ in range(2):
        channel.receive_data(frame(Pulled(sequence=4)))
        channel.wait_pulled(4)
    with pytest.raises(TimeoutError):
        channel.wait_pulled(4)


@pytest.mark.parametrize(
    ("offer", "problem"),
    [
        pytest.param(Offer(sequence=1, piece=PIECE), "offer of piece 0", id="another number"),
        pytest.param(Pulled(sequence=0), "offer of piece 0", id="another message"),
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
    ],
)
def test_an_offer_that_cannot_be_is_an_error(
    channel: PullChannel, offer: Offer | Pulled, problem: str
) -> None:
    receiver = PullReceiver(channel, BLOCKS, KVShards.of(CACHE), BLOCKS)
    command = Receive(link="a", sequence=0, key="k", piece=PIECE, num_bytes=NUM_BYTES)
    channel.receive_data(frame(offer))
    with pytest.raises((FrameError, ValueError), match=problem):
        next(receiver.begin(Incoming(command=command)))


def test_a_pull_of_something_else_is_an_error(channel: PullChannel) -> None:
    channel.receive_data(frame(Pulled(sequence=3)))
    with pytest.raises(FrameError, match="pull of piece 2"):
        channel.wait_pulled(2)


def test_a_peer_that_says_nothing_is_waited_for_in_bounded_time(channel: PullChannel) -> None:
    with pytest.raises(TimeoutError, match=r"nothing for 0\.05 s"):
        channel.wait_pulled(0)


def test_a_peer_that_does_not_listen_is_talked_to_in_bounded_time(channel: PullChannel) -> None:
    def talk() -> None:
        for sequence in range(1_000_000):
            channel.send(Offer(sequence=sequence, piece=PIECE))

    with pytest.raises(TimeoutError):
        talk()


def test_a_peer_that_says_more_than_anybody_takes_is_an_error(
    channel: PullChannel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pull_channel, "MAX_UNREAD", 3)
    pulled = frame(Pulled(sequence=0))
    channel.receive_data(3 * pulled)
    with pytest.raises(FrameError, match="3 messages of the peer wait"):
        channel.receive_data(pulled)


def test_hanging_up_wakes_the_waiting_thread(
    connections: tuple[socket.socket, socket.socket],
) -> None:
    channel = PullChannel(connections[0], 30.0)
    threading.Timer(0.05, channel.close).start()
    with pytest.raises(ConnectionError, match="went down"):
        channel.wait_pulled(0)

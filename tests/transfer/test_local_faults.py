"""The faults that the fake offers to the tests of its users."""

import pytest
import torch
from harness.transfer import LAYOUT, Ends, content, random_piece

from lengthwise_engine.transfer.base import (
    Discarded,
    LinkDown,
    LinkUp,
    ProcessLost,
    Received,
    Sent,
)
from lengthwise_engine.transfer.in_process import LocalWire


@pytest.fixture
def ends(local_ends: Ends) -> Ends:
    return local_ends


@pytest.fixture
def wire(local_wire: LocalWire) -> LocalWire:
    return local_wire


def test_a_corrupted_operation_has_another_checksum(ends: Ends, wire: LocalWire) -> None:
    link = ends.link()
    wire.corrupt(link, 1)
    piece = random_piece(1, 5)
    for sequence in range(3):
        ends.receiver.transfer.receive(link, sequence, "key", piece, piece.num_bytes(LAYOUT))
        ends.sender.transfer.send(link, sequence, piece)
        sent = ends.sender.wait(Sent, link=link, sequence=sequence)
        received = ends.receiver.wait(Received, link=link, sequence=sequence)
        assert (sent.checksum == received.checksum) == (sequence != 1)


def test_a_stalled_link_goes_down_and_discards_are_done(ends: Ends, wire: LocalWire) -> None:
    link = ends.link()
    wire.stall(link)
    piece = random_piece(2, 5)
    before = content(ends.receiver.cache, piece)
    ends.receiver.transfer.receive(link, 0, "stalled", piece, piece.num_bytes(LAYOUT))
    ends.sender.transfer.send(link, 0, piece)
    ends.receiver.transfer.discard("stalled")
    ends.receiver.wait(Discarded, 0.5, key="stalled")
    for end in (ends.sender, ends.receiver):
        end.wait(LinkDown, 3.0, link=link)
    assert torch.equal(content(ends.receiver.cache, piece), before)


def test_a_broken_link_goes_down_at_both_ends(ends: Ends, wire: LocalWire) -> None:
    link = ends.link()
    wire.break_link(link, "cut")
    for end in (ends.sender, ends.receiver):
        assert end.wait(LinkDown, 1.0, link=link).reason == "cut"


def test_a_lost_process_takes_its_links_along(ends: Ends) -> None:
    link = ends.link()
    start = len(ends.sender.events)
    ends.sender.transfer.lose("killed")
    ends.sender.wait(ProcessLost, 1.0, start, reason="killed")
    ends.receiver.wait(LinkDown, 1.0, link=link)
    assert [type(event) for event in ends.sender.about(link)] == [LinkUp]
    ends.link()

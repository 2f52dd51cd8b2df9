"""What every implementation of KV transfer promises to the workers."""

import pytest
import torch
from transfer.ends import (
    LAYOUT,
    NUM_BLOCKS,
    End,
    Ends,
    content,
    new_name,
    random_piece,
)

from lengthwise_engine.transfer.base import (
    Discarded,
    LinkDown,
    LinkUp,
    Piece,
    Received,
    Sent,
    TransferBusy,
    TransferEvent,
    combine_checksums,
)
from lengthwise_engine.transfer.supervisor.outstanding_ops import MAX_OUTSTANDING

UP_AND_DOWN: list[type[TransferEvent]] = [LinkUp, LinkDown]


def kinds(end: End, link: str) -> list[type[TransferEvent]]:
    return [type(event) for event in end.about(link)]


def move(ends: Ends, link: str, source: Piece, target: Piece, sequence: int = 0) -> None:
    num_bytes = source.num_bytes(LAYOUT)
    ends.receiver.transfer.receive(link, sequence, f"key {sequence}", target, num_bytes)
    ends.sender.transfer.send(link, sequence, source)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("num_layers", "num_blocks"),
    [
        pytest.param(1, 1, id="one block"),
        pytest.param(3, 7, id="a few blocks of every layer"),
        pytest.param(1, 341, id="exactly one message"),
        pytest.param(1, 342, id="one block more than a message"),
        pytest.param(3, 400, id="every block of every layer"),
    ],
)
def test_blocks_land_in_other_blocks(ends: Ends, num_layers: int, num_blocks: int) -> None:
    link = ends.link()
    source = random_piece(1, num_blocks, num_layers=num_layers)
    target = random_piece(2, num_blocks, num_layers=num_layers)
    untouched = ends.receiver.cache.tensor.clone()
    move(ends, link, source, target)
    sent = ends.sender.wait(Sent, link=link, sequence=0)
    received = ends.receiver.wait(Received, link=link, sequence=0, key="key 0")
    assert torch.equal(content(ends.sender.cache, source), content(ends.receiver.cache, target))
    assert sent.checksum == received.checksum
    untouched[:num_layers, list(target.block_ids)] = ends.receiver.cache.tensor[
        :num_layers, list(target.block_ids)
    ]
    assert torch.equal(untouched.view(torch.uint8), ends.receiver.cache.tensor.view(torch.uint8))


@pytest.mark.parametrize("first_block", [0, 59], ids=["from the first", "to the last"])
def test_blocks_in_a_row_land_too(ends: Ends, first_block: int) -> None:
    link = ends.link()
    ids = tuple(range(first_block, first_block + 341))
    source = Piece(first_layer=1, num_layers=2, block_ids=ids)
    target = Piece(first_layer=0, num_layers=2, block_ids=ids)
    move(ends, link, source, target)
    ends.receiver.wait(Received, link=link)
    assert torch.equal(content(ends.sender.cache, source), content(ends.receiver.cache, target))


def test_scattered_and_ordered_ids_have_the_same_checksum(ends: Ends) -> None:
    link = ends.link()
    ordered = Piece(first_layer=0, num_layers=1, block_ids=tuple(range(50)))
    scattered = Piece(first_layer=2, num_layers=1, block_ids=random_piece(3, 50).block_ids)
    ends.sender.cache.tensor[2, list(scattered.block_ids)] = ends.sender.cache.tensor[0, :50]
    for sequence, source in enumerate((ordered, scattered)):
        move(ends, link, source, scattered, sequence)
    checksums = [ends.sender.wait(Sent, link=link, sequence=n).checksum for n in range(2)]
    assert checksums[0] == checksums[1]
    assert ends.receiver.wait(Received, link=link, sequence=1).checksum == checksums[0]


def test_pieces_keep_their_order_and_their_own_place(ends: Ends) -> None:
    link = ends.link()
    sources = [random_piece(seed, 1 + seed % 5) for seed in range(40)]
    first = 0
    targets = []
    for source in sources:
        size = len(source.block_ids)
        targets.append(
            Piece(first_layer=0, num_layers=3, block_ids=tuple(range(first, first + size)))
        )
        first += size
    for sequence, (source, target) in enumerate(zip(sources, targets, strict=True)):
        move(ends, link, source, target, sequence)
    ends.receiver.wait(Received, link=link, sequence=39)
    ends.sender.wait(Sent, link=link, sequence=39)
    for end, kind in ((ends.sender, Sent), (ends.receiver, Received)):
        sequences = [event.sequence for event in end.about(link) if isinstance(event, kind)]
        assert sequences == list(range(40))
    for source, target in zip(sources, targets, strict=True):
        assert torch.equal(content(ends.sender.cache, source), content(ends.receiver.cache, target))


def test_links_in_both_directions_move_at_once(ends: Ends) -> None:
    forth, back = ends.link(), ends.link(backwards=True)
    low = Piece(first_layer=0, num_layers=3, block_ids=tuple(range(100)))
    high = Piece(first_layer=0, num_layers=3, block_ids=tuple(range(300, 400)))
    expected = [content(end.cache, low) for end in (ends.sender, ends.receiver)]
    for link, one, other in (
        (forth, ends.sender, ends.receiver),
        (back, ends.receiver, ends.sender),
    ):
        one.transfer.send(link, 0, low)
        other.transfer.receive(link, 0, "key", high, high.num_bytes(LAYOUT))
    ends.receiver.wait(Received, link=forth)
    ends.sender.wait(Received, link=back)
    assert torch.equal(content(ends.receiver.cache, high), expected[0])
    assert torch.equal(content(ends.sender.cache, high), expected[1])


def test_unwanted_bytes_are_taken_off_the_wire_and_dropped(ends: Ends) -> None:
    link = ends.link()
    before = ends.receiver.cache.tensor.clone()
    source = random_piece(4, 350)
    ends.sender.transfer.send(link, 0, source)
    ends.receiver.transfer.receive(link, 0, "", None, source.num_bytes(LAYOUT))
    sent = ends.sender.wait(Sent, link=link)
    assert ends.receiver.wait(Received, link=link).checksum == sent.checksum
    assert torch.equal(before.view(torch.uint8), ends.receiver.cache.tensor.view(torch.uint8))


def test_a_discarded_key_is_not_written_and_others_are(ends: Ends) -> None:
    link = ends.link()
    doomed, spared = random_piece(5, 20), random_piece(6, 20)
    kept = Piece(first_layer=0, num_layers=3, block_ids=tuple(range(20)))
    lost = Piece(first_layer=0, num_layers=3, block_ids=tuple(range(20, 40)))
    before = content(ends.receiver.cache, lost)
    num_bytes = kept.num_bytes(LAYOUT)
    start = len(ends.receiver.events)
    ends.receiver.transfer.receive(link, 0, "doomed", lost, num_bytes)
    ends.receiver.transfer.receive(link, 1, "spared", kept, num_bytes)
    ends.receiver.transfer.discard("doomed")
    ends.receiver.wait(Discarded, start=start, key="doomed")
    ends.sender.transfer.send(link, 0, doomed)
    ends.sender.transfer.send(link, 1, spared)
    ends.receiver.wait(Received, link=link, sequence=0, key="doomed")
    ends.receiver.wait(Received, link=link, sequence=1, key="spared")
    assert torch.equal(content(ends.receiver.cache, lost), before)
    assert torch.equal(content(ends.receiver.cache, kept), content(ends.sender.cache, spared))


def test_a_discarded_key_can_be_used_again(ends: Ends) -> None:
    link = ends.link()
    start = len(ends.receiver.events)
    source, target = random_piece(7, 5), random_piece(8, 5)
    ends.receiver.transfer.discard("again")
    ends.receiver.wait(Discarded, start=start, key="again")
    ends.receiver.transfer.receive(link, 0, "again", target, target.num_bytes(LAYOUT))
    ends.sender.transfer.send(link, 0, source)
    ends.receiver.wait(Received, link=link)
    assert torch.equal(content(ends.sender.cache, source), content(ends.receiver.cache, target))


@pytest.mark.parametrize("closer", ["sender", "receiver"])
def test_closing_takes_both_ends_down_once(ends: Ends, closer: str) -> None:
    link = ends.link()
    getattr(ends, closer).transfer.close(link)
    for end in (ends.sender, ends.receiver):
        end.wait(LinkDown, link=link)
    getattr(ends, closer).transfer.close(link)
    other = ends.link()  # whatever would still have come for the first link has come by now
    assert other
    for end in (ends.sender, ends.receiver):
        assert kinds(end, link) == UP_AND_DOWN


def test_calls_about_a_link_that_is_down_do_nothing(ends: Ends) -> None:
    link = ends.link()
    ends.sender.transfer.close(link)
    for end in (ends.sender, ends.receiver):
        end.wait(LinkDown, link=link)
    piece = random_piece(9, 2)
    ends.sender.transfer.send(link, 0, piece)
    ends.receiver.transfer.receive(link, 0, "key", piece, piece.num_bytes(LAYOUT))
    ends.link()
    for end in (ends.sender, ends.receiver):
        assert kinds(end, link) == UP_AND_DOWN


@pytest.mark.parametrize("first", ["sender", "receiver"])
def test_either_end_may_come_first(ends: Ends, first: str) -> None:
    link = new_name()
    if first == "receiver":
        ends.receiver.transfer.accept(link)
    ends.sender.transfer.connect(link, ends.receiver.transfer.rendezvous)
    if first == "sender":
        ends.receiver.transfer.accept(link)
    for end in (ends.sender, ends.receiver):
        end.wait(LinkUp, link=link)


def test_sequence_numbers_must_be_dense(ends: Ends) -> None:
    link = ends.link()
    with pytest.raises(ValueError, match="expects sequence 0"):
        ends.sender.transfer.send(link, 1, random_piece(11, 1))


def test_a_link_has_one_direction(ends: Ends) -> None:
    link = ends.link()
    with pytest.raises(ValueError, match="is for receive"):
        ends.receiver.transfer.send(link, 0, random_piece(12, 1))


def test_a_link_name_is_used_once(ends: Ends) -> None:
    link = ends.link()
    with pytest.raises(ValueError, match="open already"):
        ends.receiver.transfer.accept(link)


@pytest.mark.parametrize(
    ("piece", "num_bytes", "problem"),
    [
        pytest.param(random_piece(1, 2), 1, "are announced", id="other size"),
        pytest.param(None, 1, "multiple of", id="part of a block"),
        pytest.param(None, 0, "multiple of", id="nothing"),
        pytest.param(
            Piece(first_layer=2, num_layers=2, block_ids=(1,)), 1, "3 layers", id="layers"
        ),
        pytest.param(
            Piece(first_layer=0, num_layers=1, block_ids=(NUM_BLOCKS,)), 1, "below", id="block"
        ),
        pytest.param(Piece(first_layer=0, num_layers=1, block_ids=()), 0, "below", id="empty"),
    ],
)
def test_pieces_that_cannot_be_are_refused(
    ends: Ends, piece: Piece | None, num_bytes: int, problem: str
) -> None:
    link = ends.link()
    with pytest.raises(ValueError, match=problem):
        ends.receiver.transfer.receive(link, 0, "key", piece, num_bytes)


def test_outstanding_operations_are_bounded(ends: Ends) -> None:
    link = ends.link()
    piece = random_piece(13, 1)
    for sequence in range(MAX_OUTSTANDING):
        ends.sender.transfer.send(link, sequence, piece)
    with pytest.raises(TransferBusy, match=str(MAX_OUTSTANDING)):
        ends.sender.transfer.send(link, MAX_OUTSTANDING, piece)
    ends.sender.transfer.close(link)
    ends.sender.wait(LinkDown, link=link)


def test_combined_checksums_depend_on_the_order() -> None:
    assert combine_checksums([1, 2]) != combine_checksums([2, 1])
    assert combine_checksums([1, 2]) == combine_checksums((1, 2))
    assert combine_checksums([]) != combine_checksums([0])

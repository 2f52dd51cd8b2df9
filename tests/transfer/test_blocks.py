"""Both ways to fill and empty messages move the same bytes in the same order."""

from collections.abc import Callable

import pytest
import torch
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st
from transfer.ends import LAYOUT, NUM_BLOCKS, content, new_cache, random_piece

from lengthwise_engine.kv.cache import KVCache
from lengthwise_engine.transfer.base import Piece
from lengthwise_engine.transfer.blocks.base import Blocks, Buffer, Gate
from lengthwise_engine.transfer.blocks.host_blocks import HostBlocks
from lengthwise_engine.transfer.blocks.tensor_blocks import TensorBlocks
from lengthwise_kernels.dispatch import digest, num_digests

SOURCE, TARGET = new_cache(1), new_cache(2)
KINDS: dict[str, Callable[[KVCache], Blocks]] = {
    "host": HostBlocks,
    "tensor": lambda cache: TensorBlocks(LAYOUT, [cache]),
}

pieces = st.builds(
    Piece,
    first_layer=st.integers(0, 1),
    num_layers=st.integers(1, 2),
    block_ids=st.one_of(
        st.lists(st.integers(0, NUM_BLOCKS - 1), min_size=1, unique=True).map(tuple),
        st.integers(1, NUM_BLOCKS).map(lambda size: tuple(range(size))),
    ),
)


def copy(blocks: Blocks, source: Piece, into: Blocks, target: Piece, gate: Gate) -> list[int]:
    """Moves a piece message by message; the checksums of both ends."""
    sent, received = xxhash.xxh3_64(), xxhash.xxh3_64()
    sizes = into.message_sizes(source.num_bytes(LAYOUT))
    for one, other, size in zip(blocks.messages(source), into.messages(target), sizes, strict=True):
        memory = blocks.pack(one, blocks.new_buffer(), sent)
        assert memory.nbytes == size
        buffer = into.new_buffer()
        buffer.tensor[:size] = memory
        into.unpack(other, buffer.tensor[:size], buffer, received, gate)
    return [sent.intdigest(), received.intdigest()]


@pytest.mark.parametrize("sender", KINDS)
@pytest.mark.parametrize("receiver", KINDS)
@settings(max_examples=8)
@given(source=pieces, seed=st.integers(0, 99))
def test_every_byte_arrives(sender: str, receiver: str, source: Piece, seed: int) -> None:
    cache = TARGET
    target = random_piece(seed, len(source.block_ids), num_layers=source.num_layers)
    checksums = copy(KINDS[sender](SOURCE), source, KINDS[receiver](cache), target, Gate())
    expected = content(SOURCE, source)
    assert torch.equal(expected, content(cache, target))
    assert checksums == [xxhash.xxh3_64_intdigest(expected.contiguous().numpy().data)] * 2


@pytest.mark.parametrize("kind", KINDS)
def test_a_shut_gate_keeps_the_cache_as_it_is(kind: str) -> None:
    cache = new_cache(2)
    before = cache.tensor.clone().view(torch.uint8)
    gate = Gate()
    gate.shut()
    piece = random_piece(1, 10)
    checksums = copy(KINDS[kind](SOURCE), piece, KINDS[kind](cache), piece, gate)
    assert checksums[0] == checksums[1]
    assert torch.equal(before, cache.tensor.view(torch.uint8))


def test_a_changed_byte_changes_the_checksum() -> None:
    cache = KVCache.attach(LAYOUT, NUM_BLOCKS, SOURCE.share())
    piece = random_piece(1, 10)
    blocks = HostBlocks(cache)

    def checksum() -> int:
        value = xxhash.xxh3_64()
        for message in blocks.messages(piece):
            blocks.pack(message, blocks.new_buffer(), value)
        return value.intdigest()

    before = checksum()
    cache.tensor[2, piece.block_ids[-1]].view(torch.uint8).flatten()[-1] ^= 1
    assert checksum() != before


def test_an_accelerator_adds_digests_in_the_place_of_bytes() -> None:
    """Both ends alike, of whole messages and of what is dropped."""
    piece = random_piece(1, 10)
    blocks = TensorBlocks(LAYOUT, [SOURCE])
    size = piece.num_bytes(LAYOUT)
    buffer = Buffer(
        torch.empty(size, dtype=torch.uint8), torch.empty(num_digests(size), dtype=torch.int64)
    )
    (message,) = blocks.messages(piece)
    sent, dropped, changed = (xxhash.xxh3_64() for _ in range(3))
    memory = blocks.pack(message, buffer, sent)
    buffer.check(memory, dropped)
    assert sent.intdigest() == dropped.intdigest()
    digests = digest(memory.view(torch.int64))
    assert sent.intdigest() == xxhash.xxh3_64_intdigest(digests.numpy().data)
    memory[-1] ^= 1
    buffer.check(memory, changed)
    assert sent.intdigest() != changed.intdigest()

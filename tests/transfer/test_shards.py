"""Whatever number of ranks holds the heads at either end, every rank gets exactly its own."""

from dataclasses import replace

import pytest
import torch
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st
from transfer.ends import End, Ends

from lengthwise_engine.errors import CacheSizeError
from lengthwise_engine.kv.cache import KVCache
from lengthwise_engine.kv.layout import KVLayout
from lengthwise_engine.kv.shards import HeadShard, KVShards
from lengthwise_engine.transfer.base import LinkUp, Piece, Received, Sent
from lengthwise_engine.transfer.blocks.base import Blocks, Gate
from lengthwise_engine.transfer.blocks.open_blocks import open_blocks, pull
from lengthwise_engine.transfer.config import TransferConfig
from lengthwise_engine.transfer.supervisor.supervisor import TransferProcess

NUM_BLOCKS = 9
# 12,288 bytes a block with all heads: a piece of 27 of them has no round size anywhere.
LAYOUT = KVLayout(num_layers=3, num_kv_heads=8, head_dim=24, block_size=16, dtype="bfloat16")


class Worker:
    """`size` ranks, whose caches hold the heads of `whole`."""

    def __init__(self, size: int, whole: torch.Tensor, layout: KVLayout) -> None:
        self.heads = [
            HeadShard(rank=rank, size=size, num_kv_heads=layout.num_kv_heads)
            for rank in range(size)
        ]
        self.caches = []
        for heads in self.heads:
            of_rank = replace(layout, num_kv_heads=heads.num_heads)
            cache = KVCache.allocate(of_rank, NUM_BLOCKS, torch.device("cpu"))
            cache.tensor.copy_(self.slice(whole, heads))
            self.caches.append(cache)
        self.blocks: Blocks = open_blocks(layout, self.caches)

    @staticmethod
    def slice(whole: torch.Tensor, heads: HeadShard) -> torch.Tensor:
        return whole[..., heads.first_head : heads.first_head + heads.num_heads, :]


def random_whole(layout: KVLayout, seed: int) -> torch.Tensor:
    shape = (layout.num_layers, NUM_BLOCKS, 2, layout.block_size, layout.num_kv_heads, 24)
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(shape, generator=generator).to(torch.bfloat16)


def push(sender: Worker, source: Piece, receiver: Worker, target: Piece, gate: Gate) -> list[int]:
    """Message by message over a wire; the checksums of both ends."""
    sent, received = xxhash.xxh3_64(), xxhash.xxh3_64()
    one, other = sender.blocks, receiver.blocks
    for theirs, mine in zip(one.messages(source), other.messages(target), strict=True):
        wire = one.pack(theirs, one.new_buffer(), sent).clone()
        other.unpack(mine, wire, other.new_buffer(), received, gate)
    return [sent.intdigest(), received.intdigest()]


def pulled(sender: Worker, source: Piece, receiver: Worker, target: Piece, gate: Gate) -> list[int]:
    """The receiver reaches into the sender's caches, while the sender hashes its own."""
    sent, received = xxhash.xxh3_64(), xxhash.xxh3_64()
    one, other = sender.blocks, receiver.blocks
    for theirs, mine in zip(one.messages(source), other.messages(target), strict=True):
        one.digest(theirs, one.new_buffer(), sent)
        pull(one, theirs, other, mine, other.new_buffer(), received, gate)
    return [sent.intdigest(), received.intdigest()]


WAYS = {"pushed": push, "pulled": pulled}
sizes = pytest.mark.parametrize("sizes", [(a, b) for a in (1, 2, 4) for b in (1, 2, 4)], ids=str)
# Two heads at four ranks: each head lies in two caches.
heads = pytest.mark.parametrize("num_kv_heads", [2, 8], ids=["2 heads", "8 heads"])


@pytest.mark.parametrize("way", WAYS)
@sizes
@heads
@settings(max_examples=5)
@given(
    first_layer=st.integers(0, 1),
    num_layers=st.integers(1, 2),
    source=st.permutations(range(NUM_BLOCKS)),
    target=st.permutations(range(NUM_BLOCKS)),
    num_blocks=st.integers(1, NUM_BLOCKS),
)
def test_every_rank_gets_its_heads_and_nothing_else(
    way: str,
    sizes: tuple[int, int],
    num_kv_heads: int,
    first_layer: int,
    num_layers: int,
    source: list[int],
    target: list[int],
    num_blocks: int,
) -> None:
    layout = replace(LAYOUT, num_kv_heads=num_kv_heads)
    theirs, expected = random_whole(layout, 1), random_whole(layout, 2)
    sender, receiver = Worker(sizes[0], theirs, layout), Worker(sizes[1], expected, layout)
    origins, targets = source[:num_blocks], target[:num_blocks]
    layers = slice(first_layer, first_layer + num_layers)
    checksums = WAYS[way](
        sender,
        Piece(first_layer=first_layer, num_layers=num_layers, block_ids=tuple(origins)),
        receiver,
        Piece(first_layer=first_layer, num_layers=num_layers, block_ids=tuple(targets)),
        Gate(),
    )
    expected[layers, targets] = theirs[layers, origins]
    for cache, heads in zip(receiver.caches, receiver.heads, strict=True):
        assert torch.equal(cache.tensor, Worker.slice(expected, heads))
    wire = theirs[layers, origins].contiguous().view(torch.uint8).numpy().data.cast("B")
    assert checksums == [xxhash.xxh3_64_intdigest(wire)] * 2


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("sizes", [(1, 1), (1, 2), (2, 1)], ids=str)
def test_a_shut_gate_keeps_every_rank_as_it_is(way: str, sizes: tuple[int, int]) -> None:
    theirs, expected = random_whole(LAYOUT, 1), random_whole(LAYOUT, 2)
    sender, receiver = Worker(sizes[0], theirs, LAYOUT), Worker(sizes[1], expected, LAYOUT)
    piece = Piece(first_layer=0, num_layers=3, block_ids=(4, 2, 3))
    gate = Gate()
    gate.shut()
    checksums = WAYS[way](sender, piece, receiver, piece, gate)
    assert checksums[0] == checksums[1]
    for cache, heads in zip(receiver.caches, receiver.heads, strict=True):
        assert torch.equal(cache.tensor, Worker.slice(expected, heads))


@pytest.mark.slow
def test_processes_move_blocks_between_two_and_four_ranks() -> None:
    layout = replace(LAYOUT, num_kv_heads=2)
    theirs, expected = random_whole(layout, 1), random_whole(layout, 2)
    workers = [Worker(2, theirs, layout), Worker(4, expected, layout)]
    config = TransferConfig()
    ends = Ends(*(End(worker.caches[0]) for worker in workers))
    for end, worker in zip((ends.sender, ends.receiver), workers, strict=True):
        shares = tuple(cache.share() for cache in worker.caches)
        shards = KVShards(layout=layout, num_blocks=NUM_BLOCKS, device_type="cpu", shares=shares)
        end.transfer = TransferProcess(shards, config, end.hear)
        end.transfer.start()
    for end in (ends.sender, ends.receiver):
        end.transfer.wait_ready()
    link = ends.link()
    assert ends.sender.wait(LinkUp, link=link).path == "shared memory"
    source = Piece(first_layer=1, num_layers=2, block_ids=(4, 2, 3))
    target = Piece(first_layer=0, num_layers=2, block_ids=(0, 8, 5))
    ends.receiver.transfer.receive(link, 0, "key", target, target.num_bytes(layout))
    ends.sender.transfer.send(link, 0, source)
    received = ends.receiver.wait(Received, link=link)
    assert ends.sender.wait(Sent, link=link).checksum == received.checksum
    expected[:2, target.block_ids] = theirs[1:, source.block_ids]
    for cache, heads in zip(workers[1].caches, workers[1].heads, strict=True):
        assert torch.equal(cache.tensor, Worker.slice(expected, heads))
    for end in (ends.sender, ends.receiver):
        end.transfer.stop()


def test_shares_must_be_of_the_size_that_their_rank_has() -> None:
    cache = KVCache.allocate(LAYOUT, 2, torch.device("cpu"))
    with pytest.raises(CacheSizeError, match="rank 0 of 2"):
        KVShards(layout=LAYOUT, num_blocks=2, device_type="cpu", shares=(cache.share(),) * 2)
    with pytest.raises(ValueError, match="at least one rank"):
        KVShards(layout=LAYOUT, num_blocks=2, device_type="cpu", shares=())

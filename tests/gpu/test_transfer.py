"""KV moves between transfer processes on one GPU, whose caches are in its memory."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from transfer.ends import LAYOUT, NUM_BLOCKS, End, Ends, content, random_piece

from lengthwise_engine.kv.cache import KVCache
from lengthwise_engine.kv.shards import KVShards
from lengthwise_engine.transfer.base import LinkUp, Piece, Received, Sent
from lengthwise_engine.transfer.config import TransferConfig
from lengthwise_engine.transfer.supervisor.supervisor import TransferProcess

pytestmark = [pytest.mark.gpu, pytest.mark.slow, pytest.mark.timeout(240)]


def _caches(seed: int, num_ranks: int) -> list[KVCache]:
    """Of all ranks, on one GPU: the mover of their blocks need not care where they lie."""
    of_rank = replace(LAYOUT, num_kv_heads=LAYOUT.num_kv_heads // num_ranks)
    caches = [KVCache.allocate(of_rank, NUM_BLOCKS, torch.device("cuda")) for _ in range(num_ranks)]
    for rank, cache in enumerate(caches):
        cache.tensor.normal_(generator=torch.Generator("cuda").manual_seed(seed + rank))
    torch.cuda.synchronize()
    return caches


def _whole(caches: list[KVCache], piece: Piece) -> torch.Tensor:
    """The piece with the heads of all ranks."""
    shape = (piece.num_layers, len(piece.block_ids), 2 * LAYOUT.block_size, -1)
    parts = [content(cache, piece).reshape(shape) for cache in caches]
    return torch.cat(parts, dim=-1)


@pytest.fixture(params=[True, False], ids=["shared memory", "nccl"])
def shared_memory(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture(params=[(1, 1), (2, 1), (1, 2)], ids=str)
def caches(request: pytest.FixtureRequest) -> list[list[KVCache]]:
    return [_caches(10 * end, num_ranks) for end, num_ranks in enumerate(request.param)]


@pytest.fixture
def ends(
    caches: list[list[KVCache]], shared_memory: bool, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Ends]:
    started = []
    for number, of_end in enumerate(caches):
        # NCCL refuses two ranks on one device unless each says it is a host of its own.
        monkeypatch.setenv("NCCL_HOSTID", f"end-{number}")
        end = End(of_end[0])
        shares = tuple(cache.share() for cache in of_end)
        shards = KVShards(layout=LAYOUT, num_blocks=NUM_BLOCKS, device_type="cuda", shares=shares)
        config = TransferConfig(backend="nccl", connect_seconds=60.0, shared_memory=shared_memory)
        end.transfer = TransferProcess(shards, config, end.hear)
        end.transfer.start()
        end.transfer.wait_ready()
        started.append(end)
    yield Ends(*started)
    for end in started:
        end.transfer.stop()


def test_blocks_land_in_other_blocks(
    ends: Ends, caches: list[list[KVCache]], shared_memory: bool
) -> None:
    link = "link"
    ends.sender.transfer.connect(link, ends.receiver.transfer.rendezvous)
    ends.receiver.transfer.accept(link)
    up = ends.sender.wait(LinkUp, 90.0, link=link)
    assert (up.path == "shared memory") is shared_memory, up.path
    ends.receiver.wait(LinkUp, 90.0, link=link)
    source, target = random_piece(1, 400), random_piece(2, 400)
    num_bytes = source.num_bytes(LAYOUT)
    ends.receiver.transfer.receive(link, 0, "key", target, num_bytes)
    ends.sender.transfer.send(link, 0, source)
    received = ends.receiver.wait(Received, 60.0, link=link)
    assert ends.sender.wait(Sent, link=link).checksum == received.checksum
    torch.cuda.synchronize()
    assert torch.equal(_whole(caches[0], source), _whole(caches[1], target))

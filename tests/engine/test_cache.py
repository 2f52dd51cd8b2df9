"""The KV cache as memory: its layout, and that another process sees the same bytes."""

import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from lengthwise_engine.errors import CacheSizeError
from lengthwise_engine.kv.cache import KVCache, SharedKV
from lengthwise_engine.kv.layout import KVLayout

LAYOUT = KVLayout(num_layers=3, num_kv_heads=2, head_dim=8, block_size=16, dtype="bfloat16")
CPU = torch.device("cpu")


def test_block_bytes_count_keys_and_values_of_one_layer() -> None:
    assert LAYOUT.block_bytes == 2 * 16 * 2 * 8 * 2
    assert replace(LAYOUT, dtype="float32").block_bytes == 2 * LAYOUT.block_bytes


@pytest.mark.parametrize(("tokens", "blocks"), [(0, 0), (1, 1), (16, 1), (17, 2)])
def test_a_begun_block_is_a_whole_block(tokens: int, blocks: int) -> None:
    assert LAYOUT.num_blocks_for(tokens) == blocks


def test_layouts_share_a_fingerprint_only_if_they_are_equal() -> None:
    others = [
        replace(LAYOUT, num_layers=2),
        replace(LAYOUT, num_kv_heads=8, head_dim=2),
        replace(LAYOUT, head_dim=2, num_kv_heads=8),
        replace(LAYOUT, block_size=32),
        replace(LAYOUT, dtype="float16"),
    ]
    assert len({layout.fingerprint("cpu") for layout in [LAYOUT, *others]}) == 5
    assert replace(LAYOUT).fingerprint("cpu") == LAYOUT.fingerprint("cpu")
    assert len(LAYOUT.fingerprint("cpu")) == 16


def test_a_cpu_and_a_gpu_that_lay_out_blocks_alike_know_no_way_to_exchange_them() -> None:
    assert LAYOUT.fingerprint("cpu") != LAYOUT.fingerprint("cuda")


@pytest.mark.parametrize(
    "change", [{"num_layers": 0}, {"block_size": -1}, {"dtype": "int4"}], ids=str
)
def test_an_impossible_layout_is_refused(change: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(change))):
        replace(LAYOUT, **change)  # type: ignore[arg-type]


def test_consecutive_blocks_of_a_layer_are_one_piece_of_memory() -> None:
    cache = KVCache.allocate(LAYOUT, 7, CPU)
    assert cache.tensor.shape == (3, 7, 2, 16, 2, 8)
    assert cache.tensor.dtype == torch.bfloat16
    assert not cache.tensor.any()
    piece = cache.tensor[1, 2:5]
    assert piece.is_contiguous()
    assert piece.nbytes == 3 * LAYOUT.block_bytes
    offset = piece.data_ptr() - cache.tensor.data_ptr()
    assert offset == (7 + 2) * LAYOUT.block_bytes


_CHILD = """
import sys, torch
from lengthwise_engine.kv.cache import KVCache, SharedKV
from lengthwise_engine.kv.layout import KVLayout

layout = KVLayout(num_layers=3, num_kv_heads=2, head_dim=8, block_size=16, dtype="bfloat16")
shared = SharedKV(file_descriptor=int(sys.argv[1]), num_bytes=int(sys.argv[2]))
cache = KVCache.attach(layout, 7, shared)
assert cache.tensor[2, 6].eq(1.5).all()
cache.tensor[0, 3] = -2.0
"""


@pytest.mark.slow
def test_two_processes_see_the_same_cache() -> None:
    cache = KVCache.allocate(LAYOUT, 7, CPU)
    cache.tensor[2, 6] = 1.5
    shared = cache.share()
    assert shared.file_descriptor is not None
    arguments = [str(shared.file_descriptor), str(shared.num_bytes)]
    subprocess.run(
        [sys.executable, "-c", _CHILD, *arguments],
        pass_fds=[shared.file_descriptor],
        check=True,
        timeout=50,
    )
    assert cache.tensor[0, 3].eq(-2.0).all()
    assert cache.tensor[0, 2].eq(0.0).all()


def test_an_attached_cache_outlives_the_descriptor_it_came_from() -> None:
    cache = KVCache.allocate(LAYOUT, 2, CPU)
    view = KVCache.attach(LAYOUT, 2, cache.share())
    file_descriptor = cache.share().file_descriptor
    assert file_descriptor is not None
    del cache
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(file_descriptor)
    view.tensor[0, 0] = 1.0  # the mapping needs no descriptor
    assert view.tensor[0, 0].eq(1.0).all()


def test_a_cache_is_attached_only_at_its_own_size() -> None:
    cache = KVCache.allocate(LAYOUT, 2, CPU)
    with pytest.raises(CacheSizeError, match=r"has 6144 bytes, expected 9216 for 3 blocks"):
        KVCache.attach(LAYOUT, 3, cache.share())
    short = SharedKV(file_descriptor=cache.share().file_descriptor, num_bytes=9216)
    with pytest.raises((ValueError, OSError)):
        KVCache.attach(LAYOUT, 3, short)


def test_a_cache_needs_a_block_and_a_known_device() -> None:
    with pytest.raises(CacheSizeError, match="at least one block, got 0"):
        KVCache.allocate(LAYOUT, 0, CPU)
    with pytest.raises(CacheSizeError, match="on the CPU or a CUDA device, got meta"):
        KVCache.allocate(LAYOUT, 1, torch.device("meta"))

"""Caches of 64 GB: no address is computed in 32 bits. Triton's interpreter wraps as a GPU does.

The memory is promised by the system and never given: a few blocks at the far end are touched.
"""

import dataclasses
import mmap

import pytest
import torch
from kernels.paged_attention import PagedStep, paged_step

pytest.importorskip("triton", reason="Triton is not installed")

from lengthwise_kernels.gpu import kv_clear, kv_pack, kv_store
from lengthwise_kernels.gpu.attention import prefix_groups
from lengthwise_kernels.gpu.attention.plan import lay_out_attention
from lengthwise_kernels.reference import kv
from lengthwise_kernels.staging import to_device

CACHE_BYTES = 64 << 30
NO_RESERVE = 0x4000  # Linux's MAP_NORESERVE, which Python does not name
HEADS, HEAD_DIM = 2, 32
BLOCK = (2, 16, HEADS, HEAD_DIM)
NUM_BLOCKS = CACHE_BYTES // (4 * 2 * 16 * HEADS * HEAD_DIM)
MIXES = {
    "prompts": ([(6, 20)], ()),
    "decode rows": ([(1, 40), (1, 9)], ()),
    "a common prefix": ([(1, 258), (1, 260)], (256, 256)),
}


@pytest.fixture
def vast(device: str) -> torch.Tensor:
    """[NUM_BLOCKS, *BLOCK] of zeros."""
    if device != "cpu":
        pytest.skip("a GPU gives what it promises")
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | NO_RESERVE
    try:
        memory = mmap.mmap(-1, CACHE_BYTES, flags=flags)
    except OSError as error:
        pytest.skip(f"this system promises no {CACHE_BYTES} bytes: {error}")
    return torch.frombuffer(memory, dtype=torch.float32).view(NUM_BLOCKS, *BLOCK)


def far(block: int) -> int:
    """Every block is further than 2^31 and 2^32 numbers from the first."""
    return NUM_BLOCKS - 1 - block * 4099


def attend(step: PagedStep, layer: torch.Tensor, window: int | None) -> torch.Tensor:
    layout = lay_out_attention(step.batch, windows=(window,), sampled=None, spec=step.spec)
    plan = layout.form.bind(to_device(layout.arrays, step.spec.device)).plans[window]
    return plan.attend(step.queries, layer, step.scale)


@pytest.mark.slow
@pytest.mark.parametrize("invariant", [False, True], ids=["fast", "invariant"])
@pytest.mark.parametrize("mix", MIXES)
def test_attention_reads_the_far_end(
    vast: torch.Tensor, mix: str, invariant: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prefix_groups, "SECOND_PASS_BYTES", 0)
    lengths, shared = MIXES[mix]
    window = None if shared else 24
    step = paged_step(
        lengths,
        heads=(4, HEADS),
        head_dim=HEAD_DIM,
        dtype=torch.float32,
        window=window,
        shared=shared,
    )
    step = dataclasses.replace(step, spec=dataclasses.replace(step.spec, invariant=invariant))
    expected = attend(step, step.layer, window)
    torch.testing.assert_close(expected, step.expected, atol=4e-6, rtol=4e-6)
    for block, content in enumerate(step.layer):
        vast[far(block)] = content
    tables = [[far(block) for block in table] for table in step.batch.block_ids]
    batch = dataclasses.replace(step.batch, block_ids=tables)
    assert torch.equal(attend(dataclasses.replace(step, batch=batch), vast, window), expected)


def test_keys_and_values_are_stored_at_the_far_end(vast: torch.Tensor) -> None:
    heads, angles = torch.randn(3, 4 + 2 * HEADS, HEAD_DIM), torch.randn(3, HEAD_DIM // 2)
    positions, blocks = torch.tensor([1, 18, 15]), torch.tensor([0, 2, 1])
    layer = torch.zeros(3, *BLOCK)
    kv.rotate_and_store(heads, angles, angles, None, layer, kv.kv_rows(positions, blocks, 16))
    rows = kv.kv_rows(positions, torch.tensor([far(int(block)) for block in blocks]), 16)
    kv_store.rotate_and_store(heads, angles, angles, None, vast, rows)
    torch.testing.assert_close(torch.stack([vast[far(block)] for block in range(3)]), layer)


@pytest.mark.parametrize("layers", [1, 4])
def test_blocks_are_packed_unpacked_and_cleared_at_the_far_end(
    vast: torch.Tensor, layers: int
) -> None:
    cache = vast.view(layers, -1, *BLOCK)
    blocks = torch.tensor([cache.shape[1] - 1, cache.shape[1] - 4099])
    content = torch.randn(layers, len(blocks), *BLOCK)
    kv_pack.unpack_blocks(content, blocks, cache)
    assert torch.equal(cache[:, blocks], content)
    assert torch.equal(kv_pack.pack_blocks(cache, blocks), content)
    kv_clear.clear_blocks(cache, blocks)
    assert not cache[:, blocks].any()

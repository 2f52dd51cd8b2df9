"""What it means to measure a kernel against what a user would run in its place.

A rival computes the same result from the same tensors, or from a layout that suits it
better. A case knows the fewest bytes and operations it can take, from which its ceiling follows.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import torch
from triton.testing import do_bench

BYTES_PER_SECOND: Final = 4.3e12
FLOPS_PER_SECOND: Final = 790e12
"""What an H200 was measured to copy, and to multiply in bfloat16 on random data."""

BLOCK: Final = 16
Run = Callable[[], torch.Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One kernel on one shape; `num_bytes` and `flops` are the fewest the result can take, and
    `flops_per_second` is what the GPU can do of this kind.

    Rivals that ask the host in between cannot be captured in a CUDA graph.
    """

    op: str
    shape: str
    ours: Run
    rivals: Mapping[str, Run]
    num_bytes: int
    flops: int = 0
    flops_per_second: float = FLOPS_PER_SECOND
    rivals_ask_the_host: bool = False

    @property
    def ceiling_seconds(self) -> float:
        return max(self.num_bytes / BYTES_PER_SECOND, self.flops / self.flops_per_second)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """How large the cases are; (query heads, key heads, head size) as Llama-3.1-8B by default."""

    tokens: int = 16_384
    hidden: int = 5120
    inner: int = 27_648
    linear_rows: Sequence[int] = (16, 128, 8192)
    # (how many, of which a row takes, hidden size, their own) of Qwen3-30B-A3B
    experts: tuple[int, int, int, int] = (128, 8, 2048, 768)
    expert_rows: Sequence[int] = (1, 32, 4096)
    heads: tuple[int, int, int] = (32, 8, 128)
    packed: tuple[int, int] = (32, 256)
    vocabulary: tuple[int, int] = (128, 152_064)
    prompts: Sequence[int] = (8192, 16_384, 32_768)
    short: tuple[int, int, int] = (64, 64, 1024)
    decodes: Mapping[str, Sequence[int]] = field(
        default_factory=lambda: {
            "64 x 4096": [4096] * 64,
            "128 x 1024": [1024] * 128,
            "1 x 131072": [131_072],
            "4 ragged to 131072": [131_072, 8192, 1024, 256],
        }
    )
    # (rows, keys in common, keys of each row's own)
    prefixes: Sequence[tuple[int, int, int]] = tuple(
        (rows, 16_384, 128) for rows in (2, 4, 16, 64, 256)
    )


def paged_layer(num_blocks: int, sizes: Sizes, device: str, dtype: torch.dtype) -> torch.Tensor:
    """One layer of a cache, filled at random."""
    _, num_kv_heads, head_dim = sizes.heads
    shape = (num_blocks, 2, BLOCK, num_kv_heads, head_dim)
    return torch.randn(shape, device=device, dtype=dtype)


def disagreement(case: Case) -> float:
    """The most a rival differs: |difference| / |rival|, of tokens the share that differs."""
    ours = case.ours()
    worst = 0.0
    for rival in case.rivals.values():
        theirs = rival()
        if ours.is_floating_point():
            ratio = (ours.double() - theirs.double()).norm() / theirs.double().norm()
        else:
            ratio = (ours != theirs).double().mean()
        # What is not a number must not pass for small.
        worst = max(worst, ratio.item() if ratio.isfinite() else float("inf"))
    return worst


def capture(run: Run) -> tuple[torch.cuda.CUDAGraph, torch.Tensor]:
    """A CUDA graph of one run, and where its replays leave the result."""
    for _ in range(3):
        run()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = run()
    return graph, result


def milliseconds(run: Run, *, captured: bool) -> list[float]:
    """Of each run with a cold L2 cache, as a replay of a CUDA graph if captured; on a CPU as it is.

    The first runs, in which kernels are compiled, are left out.
    """
    if not torch.cuda.is_available():
        run()
        began_at = time.perf_counter()
        run()
        return [(time.perf_counter() - began_at) * 1e3]
    call: Callable[[], object] = run
    if captured:
        graph, _ = capture(run)
        call = graph.replay
    times: list[float] = do_bench(call, warmup=20, rep=100, return_mode="all")
    return times

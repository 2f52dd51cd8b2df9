"""What was measured of one thing, as a row: times, rates, and what bytes or operations allow.

Times are of a device that has finished; a ceiling is the larger of the fewest bytes over
the bandwidth and the fewest operations over the peak, both as measured, not as advertised.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import triton

from gpu.agreement.case import BYTES_PER_SECOND, FLOPS_PER_SECOND
from gpu.task import Row

WARM_UPS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """`milliseconds` of each repeat; `tokens` are those computed in one. `flops_per_second` is what
    the GPU can do of this kind."""

    op: str
    shape: str
    implementation: str
    milliseconds: Sequence[float]
    num_bytes: int = 0
    flops: int = 0
    flops_per_second: float = FLOPS_PER_SECOND
    tokens: int = 0

    @property
    def ceiling_ms(self) -> float:
        return max(self.num_bytes / BYTES_PER_SECOND, self.flops / self.flops_per_second) * 1e3

    def row(self) -> Row:
        median = quantile(self.milliseconds, 0.5)
        return {
            **device_columns(),
            "op": self.op,
            "shape": self.shape,
            "implementation": self.implementation,
            "repeats": len(self.milliseconds),
            "p20_ms": round(quantile(self.milliseconds, 0.2), 4),
            "p50_ms": round(median, 4),
            "p80_ms": round(quantile(self.milliseconds, 0.8), 4),
            "tokens_per_second": round(self.tokens / median * 1e3, 1),
            "gigabytes_per_second": round(self.num_bytes / median / 1e6, 1),
            "teraflops_per_second": round(self.flops / median / 1e9, 2),
            "ceiling_ms": round(self.ceiling_ms, 4),
            "share_of_ceiling": round(self.ceiling_ms / median, 4),
        }


def device_columns() -> dict[str, str]:
    """What computes, in every row."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    return {
        "gpu": gpu,
        "torch": torch.__version__,
        "triton": triton.__version__,
        "cuda": torch.version.cuda or "none",
    }


def quantile(values: Sequence[float], share: float) -> float:
    """The value below which `share` of the others lie, itself one of them."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def finish() -> None:
    """Waits for the device."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def time_steps(run: Callable[[], object], repeats: int) -> list[float]:
    """Milliseconds of each run, after some to warm up."""
    taken = []
    for _ in range(WARM_UPS + repeats):
        finish()
        began_at = time.perf_counter()
        run()
        finish()
        taken.append((time.perf_counter() - began_at) * 1e3)
    return taken[WARM_UPS:]

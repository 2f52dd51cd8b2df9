"""The stand-in for CUDA graphs refuses what they refuse, and the recorder of real ones counts what
this process has allocated."""

from typing import Any

import pytest
import torch
from kernels.frozen_recorder import FrozenRecorder

from lengthwise_engine.runner.graph_recorder import CudaRecorder

CUDA = torch.device("cuda", 0)
EARLIER_BYTES = 60 << 30


def test_a_body_that_asks_the_device_something_cannot_be_replayed() -> None:
    numbers = torch.tensor([0, 3])
    for body in (
        lambda: numbers.nonzero(),
        lambda: numbers[1].item(),
        lambda: numbers[numbers > 1],
    ):
        with pytest.raises(RuntimeError, match="the host needs its result"):
            FrozenRecorder().capture(body).replay()


class Allocator:
    """Of a GPU that may not be asked what is left of it, since other processes use it too."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.allocated = self.peak = 1000
        self.pool: list[dict[str, int]] = []
        for name, answer in {
            "graph_pool_handle": lambda: (0, 1),
            "memory_allocated": lambda device: self.allocated,
            "max_memory_allocated": lambda device: self.peak,
            "reset_peak_memory_stats": self._reset,
            "mem_get_info": lambda *device: pytest.fail("it counts other processes too"),
            "CUDAGraph": object,
            "graph": lambda graph, **options: self,
        }.items():
            monkeypatch.setattr(torch.cuda, name, answer)
        monkeypatch.setattr(torch.cuda.memory, "memory_snapshot", lambda pool: self.pool)

    def __enter__(self) -> None:
        self.pool.append({"total_size": 2 << 20})

    def __exit__(self, *error: Any) -> None:
        pass

    def _reset(self, device: torch.device) -> None:
        self.peak = self.allocated

    def take(self, num_bytes: int) -> None:
        """And give them back."""
        self.peak = max(self.peak, self.allocated + num_bytes)


def test_a_graph_takes_what_its_body_does_whatever_another_process_takes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    allocator = Allocator(monkeypatch)
    recorder = CudaRecorder(CUDA)
    assert recorder.pool_bytes() == 0
    allocator.take(EARLIER_BYTES)  # of an earlier step of this process
    assert recorder.measure(lambda: allocator.take(300)) == 300
    recorder.capture(lambda: allocator.take(300))
    assert recorder.pool_bytes() == 2 << 20

"""How a worker gets its memory changes no byte of it, and what is freed is used again."""

import mmap
import subprocess
import sys

import pytest
import torch

from lengthwise_kernels.host_memory import use_huge_pages

AGAIN = """
import resource, threading
import torch
from lengthwise_kernels.host_memory import keep_freed_memory

keep_freed_memory()

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.empty(80 << 20, dtype=torch.uint8).fill_(1)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

# On an engine's thread. Small things that lie between are no reason to fault for ever.
thread = threading.Thread(target=lambda: print(min(faults() for _ in range(10))))
thread.start()
thread.join()
"""


@pytest.mark.parametrize("num_bytes", [0, 1, 4096, (2 << 20) - 1, 5 << 20])
@pytest.mark.parametrize("offset", [0, 64, 4096])
def test_bytes_in_huge_pages_are_the_same_bytes(num_bytes: int, offset: int) -> None:
    tensor = torch.arange((8 << 20) // 8)
    use_huge_pages(tensor.data_ptr() + offset, num_bytes)
    assert torch.equal(tensor, torch.arange((8 << 20) // 8))


def test_memory_that_cannot_have_huge_pages_stays_as_it_is() -> None:
    with mmap.mmap(-1, 4 << 20, flags=mmap.MAP_SHARED) as memory:
        tensor = torch.frombuffer(memory, dtype=torch.uint8)
        tensor.fill_(7)
        use_huge_pages(tensor.data_ptr(), len(memory))
        assert int(tensor.sum()) == 7 * len(memory)
        del tensor


@pytest.mark.slow
def test_a_step_gets_the_memory_that_the_steps_before_freed() -> None:
    """80 MiB are 20,480 pages; without it each round faults them in again."""
    result = subprocess.run(
        [sys.executable, "-c", AGAIN], capture_output=True, text=True, timeout=60, check=True
    )
    assert int(result.stdout) < 1000

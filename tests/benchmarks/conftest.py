"""Benchmarks' kernels run in Triton's interpreter: on a GPU `make gpu-check` runs them all."""

import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def device() -> str:
    """Where tensors for a Triton kernel have to lie. Skips where Triton is not installed."""
    pytest.importorskip("triton", reason="Triton is not installed")
    return "cuda" if torch.cuda.is_available() else "cpu"

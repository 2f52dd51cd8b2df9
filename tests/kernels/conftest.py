"""What the kernel tests share: one thread, so that short tests do not fight for cores, and where
Triton kernels run.

A test of a kernel is written once. Where torch finds a GPU it runs there and is marked
`gpu`; elsewhere Triton's interpreter runs the same kernel on the CPU.
"""

from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from kernels.quick_interpreter import quicken


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def _quick_interpreter() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as monkeypatch:
        if find_spec("triton") and not torch.cuda.is_available():
            quicken(monkeypatch)
        yield


@pytest.fixture
def device() -> str:
    """Where tensors for a Triton kernel have to lie. Skips where Triton is not installed."""
    pytest.importorskip("triton", reason="Triton is not installed")
    return "cuda" if torch.cuda.is_available() else "cpu"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        for item in items:
            if item.path.parent == Path(__file__).parent and "device" in getattr(
                item, "fixturenames", ()
            ):
                item.add_marker(pytest.mark.gpu)


@pytest.fixture
def on_kernels(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine computes with the kernels in Triton's interpreter (`kernels.graph_runners`)."""
    if device != "cpu":
        pytest.skip("tests/gpu/test_graphs.py runs graphs on the GPU")
    from kernels.graph_runners import switch_kernels

    switch_kernels(monkeypatch)


@pytest.fixture
def qwen(make_checkpoint: Callable[..., Path], on_kernels: None) -> Path:
    return make_checkpoint("qwen2", num_hidden_layers=2)


@pytest.fixture
def exact_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """Triton's interpreter multiplies matrices as a matrix unit does, with exact products and wide
    sums. By itself it leaves them to numpy's BLAS, which on CPUs without AVX-512 adds a row in
    another order beside others; and it takes bit patterns of bfloat16 for numbers
    (triton-lang/triton#11584)."""
    interpreter = pytest.importorskip("triton.runtime.interpreter")
    create_dot = interpreter.InterpreterBuilder.create_dot

    def widened(handle: Any) -> Any:
        if not handle.dtype.scalar.is_bf16():
            return handle
        numbers = (handle.data.astype(np.uint32) << 16).view(np.float32)
        return interpreter.TensorHandle(numbers, interpreter.tl.float32)

    def exact_dot(self: object, a: Any, b: Any, sums: Any, *rest: Any) -> Any:
        wide = interpreter.TensorHandle(sums.data.astype(np.float64), interpreter.tl.float64)
        product = create_dot(self, widened(a), widened(b), wide, *rest)
        return interpreter.TensorHandle(product.data.astype(sums.data.dtype), sums.dtype.scalar)

    monkeypatch.setattr(interpreter.InterpreterBuilder, "create_dot", exact_dot)

"""FP8 is refused at the start where it would go wrong later."""

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed")
from lengthwise_kernels.errors import UnsupportedByKernel
from lengthwise_kernels.gpu.scaled_linear import check_fp8


@pytest.mark.parametrize(
    ("version", "capability", "said"),
    [
        ("2.11.0+cu128", (9, 0), "needs torch 2.12 or newer, got 2.11.0"),
        ("2.13.0", (8, 0), "compute capability 8.9 or more"),
        ("2.12.0a0+git1", (8, 9), ""),
        ("3.0.0", (10, 0), ""),
    ],
)
def test_what_fp8_needs_is_said(
    version: str, capability: tuple[int, int], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "__version__", version)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    device = torch.device("cuda")
    if not said:
        check_fp8(device)
        return
    with pytest.raises(UnsupportedByKernel, match=said):
        check_fp8(device)

"""Handles of GPU memory as text. What opens them, the driver, is not there."""

import json
from typing import Any

import pytest
import torch

from lengthwise_engine.kv.cuda_ipc import open_cuda, share_cuda

HANDLE = (1, b"\x00\xff" * 32, 4096, 512, b"/torch_1_2\n", 3, b"\x80" * 64, True)
"""What torch sends: device, handle, bytes of the storage, where it begins in its allocation, the
name of a counter and its place, an event, and whether to wait for it."""


class SharedTensor:
    """Of a GPU; its own storage too."""

    def untyped_storage(self) -> "SharedTensor":
        return self

    def _share_cuda_(self) -> tuple[Any, ...]:
        return HANDLE


@pytest.mark.parametrize(
    ("device", "expected"), [(None, 1), (torch.device("cuda", 3), 3)], ids=["same", "another"]
)
def test_a_handle_arrives_as_it_was_sent_and_its_refusal_is_an_error(
    device: torch.device | None, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[tuple[Any, ...]] = []

    def refuse(*values: Any) -> None:
        opened.append(values)
        raise RuntimeError("CUDA error: invalid device context")

    monkeypatch.setattr(torch.cuda, "init", lambda: None)
    monkeypatch.setattr(torch.UntypedStorage, "_new_shared_cuda", staticmethod(refuse))
    handle = share_cuda(SharedTensor())  # type: ignore[arg-type]
    assert isinstance(json.loads(handle), list)
    with pytest.raises(RuntimeError, match="invalid device context"):
        open_cuda(handle, torch.bfloat16, device)
    assert opened == [(expected, *HANDLE[1:])]

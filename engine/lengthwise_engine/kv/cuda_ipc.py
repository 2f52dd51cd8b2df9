"""One GPU tensor in two processes: torch's CUDA IPC handles as text.

Nothing is pickled: the handle is the eight values that torch itself would send, as JSON. It may be
opened by any number of processes, one after the other or at once: torch counts openings only to
know when the memory may be freed, and a cache lives as long as its process.
"""

import base64
import json
from typing import Any

import torch


def share_cuda(tensor: torch.Tensor) -> str:
    """A handle to the memory of a tensor that begins its storage."""
    storage: Any = tensor.untyped_storage()
    return json.dumps([_to_text(value) for value in storage._share_cuda_()])


def open_cuda(handle: str, dtype: torch.dtype, device: torch.device | None = None) -> torch.Tensor:
    """The whole storage behind a handle of another process, flat.

    `device`: where it is reached from, which may be another GPU of the machine than the one it lies
    on. None: the device of the same number as in the other process, whose visible devices must be
    the same then. Raises RuntimeError where the memory cannot be reached.
    """
    torch.cuda.init()  # type: ignore[no-untyped-call]
    opener: Any = torch.UntypedStorage
    number, *others = (_from_text(value) for value in json.loads(handle))
    storage = opener._new_shared_cuda(number if device is None else device.index, *others)
    reached_from = torch.device("cuda", storage.device.index)
    num_elements = storage.nbytes() // dtype.itemsize
    return torch.empty(0, dtype=dtype, device=reached_from).set_(storage, 0, (num_elements,), (1,))


def _to_text(value: Any) -> Any:
    if isinstance(value, bytes):
        return {"base64": base64.b64encode(value).decode("ascii")}
    return value


def _from_text(value: Any) -> Any:
    return base64.b64decode(value["base64"]) if isinstance(value, dict) else value

"""A link's two-rank process group, behind the two verbs a link needs.

Every wait here is bounded and then raises; a group that raised is thrown away whole. The sender is
rank 0, the receiver rank 1.
"""

import time
from datetime import timedelta
from functools import partial
from typing import Any, Final, Protocol

import torch
import torch.distributed as dist

from lengthwise_engine.transfer.links.base import Finish
from lengthwise_engine.transfer.links.rendezvous import PairStore

SENDER: Final = 0
RECEIVER: Final = 1
# Two channels keep a communicator's footprint small (16 channels take about 100 MB per pair); the
# process group's own monitors would poll the store, which serves only until the link is up, and the
# worker watches and kills this process anyway.
NCCL_ENVIRONMENT: Final = {
    "NCCL_MAX_NCHANNELS": "2",
    "NCCL_NSOCKS_PERTHREAD": "1",
    "NCCL_SOCKET_NTHREADS": "1",
    "TORCH_NCCL_ENABLE_MONITORING": "0",
    "TORCH_NCCL_ASYNC_ERROR_HANDLING": "0",
}
# One tag for all messages: a process group delivers equal tags in the order of the calls.
_TAG: Final = 0
_NCCL_POLL_SECONDS: Final = 0.0002


class Group(Protocol):
    """What both verbs return waits until the message's memory may be used again."""

    def send(self, message: torch.Tensor) -> Finish: ...

    def recv(self, message: torch.Tensor) -> Finish: ...


class GlooGroup:
    def __init__(self, store: PairStore, rank: int, *, address: str, stall_seconds: float) -> None:
        """Raises when the other end has not come by the store's deadline."""
        gloo: Any = dist.ProcessGroupGloo  # the stubs know little of it
        options = gloo._Options()
        options._timeout = timedelta(seconds=max(0.001, store.deadline - time.monotonic()))
        options._threads = 1  # they run collectives; messages do not need them
        options._devices = [_gloo_device(address)]
        self._group = gloo(store, rank, 2, options)
        self._peer = 1 - rank
        self._stall = timedelta(seconds=stall_seconds)

    def send(self, message: torch.Tensor) -> Finish:
        return partial(self._group.send([message], self._peer, _TAG).wait, self._stall)

    def recv(self, message: torch.Tensor) -> Finish:
        return partial(self._group.recv([message], self._peer, _TAG).wait, self._stall)


class NcclGroup:
    """NCCL builds its communicator at the first message, so one is exchanged here."""

    def __init__(
        self, store: PairStore, rank: int, *, device: torch.device, stall_seconds: float
    ) -> None:
        nccl: Any = dist.ProcessGroupNCCL
        options = nccl.Options()
        options._timeout = timedelta(seconds=stall_seconds)
        self._group = nccl(store, rank, 2, options)
        self._peer = 1 - rank
        self._stall_seconds = stall_seconds
        hello = torch.zeros(1, dtype=torch.uint8, device=device)
        (self.send if rank == SENDER else self.recv)(hello)()

    def send(self, message: torch.Tensor) -> Finish:
        return partial(self._wait, self._group.send([message], self._peer, _TAG))

    def recv(self, message: torch.Tensor) -> Finish:
        return partial(self._wait, self._group.recv([message], self._peer, _TAG))

    def _wait(self, work: dist.Work) -> None:
        deadline = time.monotonic() + self._stall_seconds
        while not work.is_completed():
            if time.monotonic() > deadline:
                self._group.abort()
                raise RuntimeError(f"NCCL moved nothing for {self._stall_seconds:g} s")
            time.sleep(_NCCL_POLL_SECONDS)
        work.wait()


_gloo_devices: dict[str, dist.ProcessGroupGloo.Device] = {}


def _gloo_device(address: str) -> dist.ProcessGroupGloo.Device:
    """One device, which is one I/O thread, per address for all links: gloo's loop wakes up every
    10 ms, also when idle."""
    if address not in _gloo_devices:
        _gloo_devices[address] = dist.ProcessGroupGloo.create_device(hostname=address)
    return _gloo_devices[address]

"""A link's two-rank process group, behind the two verbs a link needs.

Every wait here is bounded and then raises; a group that raised is thrown away whole. The sender is
rank 0, the receiver rank 1.
"""

import time
from datetime import timedelta
from typing import Any, Final, Protocol

import torch
import torch.distributed as dist

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


class Pending(Protocol):
    """A message on its way."""

    def wait(self) -> None:
        """Return once its memory may be used again. Raises RuntimeError when that takes too long,
        or the peer is gone."""


class Group(Protocol):
    def send(self, message: torch.Tensor) -> Pending: ...

    def recv(self, message: torch.Tensor) -> Pending: ...


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

    def send(self, message: torch.Tensor) -> Pending:
        return _GlooPending(self._group.send([message], self._peer, _TAG), self._stall)

    def recv(self, message: torch.Tensor) -> Pending:
        return _GlooPending(self._group.recv([message], self._peer, _TAG), self._stall)


class _GlooPending:
    def __init__(self, work: dist.Work, stall: timedelta) -> None:
        self._work = work
        self._stall = stall

    def wait(self) -> None:
        self._work.wait(self._stall)


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
        (self.send if rank == SENDER else self.recv)(hello).wait()

    def send(self, message: torch.Tensor) -> Pending:
        work = self._group.send([message], self._peer, _TAG)
        return _NcclPending(self._group, work, self._stall_seconds)

    def recv(self, message: torch.Tensor) -> Pending:
        work = self._group.recv([message], self._peer, _TAG)
        return _NcclPending(self._group, work, self._stall_seconds)


class _NcclPending:
    def __init__(self, group: Any, work: dist.Work, stall_seconds: float) -> None:
        self._group = group
        self._work = work
        self._stall_seconds = stall_seconds

    def wait(self) -> None:
        deadline = time.monotonic() + self._stall_seconds
        while not self._work.is_completed():
            if time.monotonic() > deadline:
                self._group.abort()
                raise RuntimeError(f"NCCL moved nothing for {self._stall_seconds:g} s")
            time.sleep(_NCCL_POLL_SECONDS)
        self._work.wait()


def open_group(
    backend: str,
    store: PairStore,
    rank: int,
    *,
    address: str,
    device: torch.device,
    stall_seconds: float,
) -> Group:
    """Build the group; the other end does the same at the same time.

    `address` is this machine's on the network that reaches the peer, `device` the cache's.
    """
    if backend == "gloo":
        return GlooGroup(store, rank, address=address, stall_seconds=stall_seconds)
    return NcclGroup(store, rank, device=device, stall_seconds=stall_seconds)


_gloo_devices: dict[str, dist.ProcessGroupGloo.Device] = {}


def _gloo_device(address: str) -> dist.ProcessGroupGloo.Device:
    """One device, which is one I/O thread, per address for all links: gloo's loop wakes up every
    10 ms, also when idle."""
    if address not in _gloo_devices:
        _gloo_devices[address] = dist.ProcessGroupGloo.create_device(hostname=address)
    return _gloo_devices[address]

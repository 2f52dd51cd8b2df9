"""The ranks of a tensor-parallel worker as seen by one of them: three collectives, bounded.

Invariant: all ranks call the same collectives with the same shapes in the same order, which follows
from the step alone. A group that raised is of no more use, and neither is its worker.
"""

import os
from contextlib import suppress
from datetime import timedelta
from typing import Any, Final

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import FileStore, Store
from torch.nn import functional

MEET_SECONDS: Final = 60.0
"""All ranks have loaded when the first one waits for the others."""

_HOST: Final = "127.0.0.1"
_NCCL_ENVIRONMENT: Final = {
    # Rank 0 itself watches the others and each step's time; torch's monitors would abort the
    # process instead of letting the step raise.
    "TORCH_NCCL_ENABLE_MONITORING": "0",
    "TORCH_NCCL_ASYNC_ERROR_HANDLING": "0",
}


class RankGroup:
    """One rank's membership.

    On CPUs (gloo) every collective returns or raises RuntimeError within `stall_seconds`. On CUDA
    (NCCL) they are queued on the current stream like kernels; the thread that waits for the stream
    bounds that, and calls `abort` to end the wait.
    """

    def __init__(
        self, rendezvous: int, rank: int, size: int, *, device: torch.device, stall_seconds: float
    ) -> None:
        """Returns once all ranks are there; raises RuntimeError when they are not in MEET_SECONDS.

        `rendezvous` is a file descriptor of an empty memfd that all ranks inherited.
        """
        self.rank = rank
        self.size = size
        # No port to agree on and nothing left behind: the ranks find each other through a nameless
        # file, which each opens for itself because the store locks it. The store does so whenever
        # it is asked something, at the latest in its destructor, so that its number must never
        # become that of another file: this one is not closed before the process ends.
        store = FileStore(f"/proc/self/fd/{os.dup(rendezvous)}", size)
        meeting = timedelta(seconds=MEET_SECONDS)
        store.set_timeout(meeting)
        self._group: Any = _open(store, rank, size, device, meeting)
        self._on_cuda = device.type == "cuda"
        self._nothing = torch.zeros(1, device=device)
        self._group.allreduce([self._nothing]).wait()
        if self._on_cuda:
            torch.cuda.synchronize(device)
        stall = timedelta(seconds=stall_seconds)
        self._summing = dist.AllreduceOptions()
        self._gathering = dist.GatherOptions()
        self._agreeing = dist.BroadcastOptions()
        for options in (self._summing, self._gathering, self._agreeing):
            options.timeout = stall
        self._gathering.rootRank = 0
        self._agreeing.rootRank = 0

    def sum(self, x: torch.Tensor) -> torch.Tensor:
        """`x` becomes its sum over the ranks.

        Nobody's sum is there before every rank has asked for it, not even one of no rows.
        """
        x = x.contiguous()
        self._group.allreduce([x if x.numel() else self._nothing], self._summing).wait()
        return x

    def gather_columns(self, x: torch.Tensor, num_columns: int) -> torch.Tensor:
        """The ranks' columns side by side, [rows, num_columns], on rank 0; zeros on the others, who
        may do with them whatever rank 0 does.

        Each rank has ceil(num_columns / size) columns, the last ones fewer if that is too many.
        """
        if not len(x):
            return x.new_empty(0, num_columns)
        each = -(-num_columns // self.size)
        padded = functional.pad(x, (0, each - x.shape[1])).contiguous()
        parts = []
        if self.rank == 0:
            parts = [[torch.empty_like(padded) for _ in range(self.size)]]
        self._group.gather(parts, [padded], self._gathering).wait()
        if not parts:
            return x.new_zeros(len(x), num_columns)
        return torch.cat(parts[0], dim=1)[:, :num_columns].contiguous()

    def agree(self, x: torch.Tensor) -> torch.Tensor:
        """`x` becomes rank 0's."""
        x = x.contiguous()
        if x.numel():
            self._group.broadcast([x], self._agreeing).wait()
        return x

    def abort(self) -> None:
        """End what waits on the device for a rank that does not come. From any thread."""
        if self._on_cuda:
            # The group may be broken already, which is why we are here.
            with suppress(RuntimeError):
                self._group.abort()


def _open(
    store: Store, rank: int, size: int, device: torch.device, timeout: timedelta
) -> dist.ProcessGroup:
    if device.type == "cuda":
        for name, value in _NCCL_ENVIRONMENT.items():
            os.environ.setdefault(name, value)  # the operator's settings win
        nccl: Any = dist.ProcessGroupNCCL
        options = nccl.Options()
        options._timeout = timeout
        return nccl(store, rank, size, options)  # type: ignore[no-any-return]
    gloo: Any = dist.ProcessGroupGloo  # the stubs know little of it
    options = gloo._Options()
    options._timeout = timeout
    options._threads = 1  # a rank waits for each collective before it asks for the next
    options._devices = [gloo.create_device(hostname=_HOST)]
    return gloo(store, rank, size, options)  # type: ignore[no-any-return]

"""A rank other than 0: loads its share, then repeats the steps that rank 0 sends.

`python -m lengthwise_engine.tensor_parallel.rank_main PLAN SOCKET RENDEZVOUS [KV]`: a `RankPlan`
as JSON, and file descriptors that it inherits: a socket to rank 0, where the ranks meet
(`RankGroup`), and the rank's KV cache where rank 0 made it. It reports `RankReady` or `RankFailed`
once, then it only receives: first an empty step, at which all ranks meet, then the steps, and
adapters in between.

It dies with rank 0. One thread only reads, so that a hang-up is noticed whatever the
other one waits for.
"""

import logging
import os
import queue
import socket
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Final

import msgspec
import torch

from lengthwise_engine.kv.cache import KVCache, SharedKV, cache_bytes
from lengthwise_engine.models.adapters.stack import AdapterStack
from lengthwise_engine.runner.base import SequenceChunk
from lengthwise_engine.tensor_parallel.rank import RankPlan
from lengthwise_engine.tensor_parallel.rank_process import RankFailed, RankReady
from lengthwise_engine.tensor_parallel.steps import AdapterLayer, receive
from lengthwise_engine.transfer.frames import frame
from lengthwise_kernels.host_memory import keep_freed_memory

logger = logging.getLogger(__name__)

_SOFTWARE_ERROR: Final = 70
# Rank 0 sends a step when it computes it; more than a few ahead means that it does not.
_MOST_STEPS_AHEAD: Final = 8

Steps = queue.Queue[Sequence[SequenceChunk]]
Stack = Future[AdapterStack | None]
"""There once the rank has loaded, before which no adapter comes."""


def main() -> None:
    """Never returns: threads may be inside gloo, which must not see its memory torn down."""
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))  # a fork has not read it
    plan = msgspec.json.decode(sys.argv[1], type=RankPlan)
    socket_descriptor, rendezvous, *kv = (int(argument) for argument in sys.argv[2:])
    parent = socket.socket(fileno=socket_descriptor)
    steps: Steps = queue.Queue(_MOST_STEPS_AHEAD)
    stack: Stack = Future()
    threading.Thread(target=_listen, args=(parent, steps, stack), daemon=True).start()
    try:
        if plan.device_type == "cuda":
            torch.cuda.set_device(plan.device)
        else:
            keep_freed_memory()
        weights, cache = plan.load(), _cache(plan, *kv)
        stack.set_result(plan.stack())
        parent.sendall(frame(RankReady(kv=cache.share())))
    except BaseException as error:
        parent.sendall(frame(RankFailed(reason=f"{type(error).__name__}: {error}")))
        os._exit(_SOFTWARE_ERROR)
    try:
        steps.get()
        group = plan.meet(rendezvous)
        runner = plan.runner(weights, cache, group, adapters=stack.result())
        while True:
            runner.launch(steps.get())
    except BaseException:
        logger.critical("rank %d of %d has died", plan.rank, plan.size, exc_info=True)
        os._exit(_SOFTWARE_ERROR)


def _listen(parent: socket.socket, steps: Steps, stack: Stack) -> None:
    try:
        while (message := receive(parent)) is not None:
            if isinstance(message, AdapterLayer):
                _store(message, stack.result(0.0))
            else:
                steps.put_nowait(message)
    except BaseException:
        logger.critical("rank 0 sends what is no step", exc_info=True)
        os._exit(_SOFTWARE_ERROR)
    os._exit(0)


def _store(message: AdapterLayer, stack: AdapterStack | None) -> None:
    """Beside the steps: none of those that came before computes with this adapter."""
    assert stack is not None
    stack.store(message.number, message.layer, message.data.view(stack.dtype))


def _cache(plan: RankPlan, kv: int | None = None) -> KVCache:
    layout = plan.layout()
    if kv is None:
        return KVCache.allocate(layout, plan.num_blocks, plan.device)
    num_bytes = cache_bytes(layout, plan.num_blocks)
    shared = SharedKV(num_bytes=num_bytes, file_descriptor=kv)
    return KVCache.attach(layout, plan.num_blocks, shared)


if __name__ == "__main__":
    main()

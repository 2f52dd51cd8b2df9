"""From a checkpoint to a model on several ranks, of which this process becomes rank 0.

What can be wrong with the configuration is found before a process starts, and no process is left
when something fails later.
"""

import os
import time
from dataclasses import dataclass, replace
from typing import Final

import torch

from lengthwise_engine.errors import RankError
from lengthwise_engine.kv.cache import KVCache, SharedKV
from lengthwise_engine.kv.layout import KVLayout
from lengthwise_engine.kv.shards import KVShards
from lengthwise_engine.models.adapters.room import AdapterRoom
from lengthwise_engine.models.adapters.stack import AdapterStack
from lengthwise_engine.models.weights import DecoderWeights
from lengthwise_engine.tensor_parallel.rank import RankPlan
from lengthwise_engine.tensor_parallel.rank_process import RankProcess
from lengthwise_engine.tensor_parallel.runner import ParallelRunner
from lengthwise_engine.tensor_parallel.steps import pack_step
from lengthwise_engine.tensor_parallel.watch import RankWatch

_READY_SECONDS: Final = 600.0
"""How much longer than rank 0 another rank may load."""
_BEGIN_SECONDS: Final = 600.0
"""For all ranks, once they are loaded, to find each other and, on GPUs, to compile kernels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ParallelModel:
    """A runner, and what it needs to live: `caches` are those that this process allocated, rank 0's
    first, `shards` all ranks'; `weights` are rank 0's."""

    weights: DecoderWeights
    runner: ParallelRunner
    caches: tuple[KVCache, ...]
    shards: KVShards
    watch: RankWatch


def check_devices(device_type: str, num_ranks: int) -> None:
    """Raises `RankError` when there are too few devices."""
    if device_type == "cuda" and torch.cuda.device_count() < num_ranks:
        raise RankError(
            f"tensor_parallel_size {num_ranks} needs as many CUDA devices, got"
            f" {torch.cuda.device_count()}; lower it, or give the worker more GPUs"
        )


def load_parallel(plan: RankPlan, adapters: AdapterRoom | None = None) -> ParallelModel:
    """Start the other ranks of rank 0's `plan`, load all shares and fill the room of adapters.

    Raises `CheckpointError` for a checkpoint that cannot be served, or not by so many ranks,
    `RankError` when a rank does not come up.
    """
    plan.shard()
    if adapters is not None:
        plan = replace(plan, adapters=adapters.plan)
    rendezvous = os.memfd_create("lengthwise-ranks")
    try:
        loaded = _load_shares(plan, rendezvous)
        try:
            parallel = _meet(plan, loaded, rendezvous)
            if adapters is not None and loaded.stack is not None:
                adapters.fill([loaded.stack.store, *(rank.store for rank in loaded.ranks)])
            return parallel
        except BaseException:
            loaded.watch.close()
            raise
    finally:
        os.close(rendezvous)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Loaded:
    """All ranks have their shares, and have not met. `caches` as in `ParallelModel`."""

    weights: DecoderWeights
    stack: AdapterStack | None
    caches: tuple[KVCache, ...]
    shares: tuple[SharedKV, ...]
    ranks: tuple[RankProcess, ...]
    watch: RankWatch


def _load_shares(plan: RankPlan, rendezvous: int) -> _Loaded:
    """The ranks load at the same time."""
    on_cpu = plan.device_type == "cpu"
    # A cache on the CPU is made here for each rank: its file descriptor is easily inherited.
    here = range(plan.size if on_cpu else 1)
    caches = tuple(
        KVCache.allocate(plan.of(rank).layout(), plan.num_blocks, plan.device) for rank in here
    )
    ranks: list[RankProcess] = []
    try:
        for rank in range(1, plan.size):
            kv = caches[rank].share().file_descriptor if on_cpu else None
            ranks.append(RankProcess(plan.of(rank), rendezvous, kv))
        weights, stack = plan.load(), plan.stack()
        deadline = time.monotonic() + _READY_SECONDS
        elsewhere = [process.wait_ready(deadline) for process in ranks]
    except BaseException:
        for process in ranks:
            process.close()
        raise
    shares = [cache.share() for cache in caches] + ([] if on_cpu else elsewhere)
    return _Loaded(
        weights=weights,
        stack=stack,
        caches=caches,
        shares=tuple(shares),
        ranks=tuple(ranks),
        watch=RankWatch(ranks),
    )


def _meet(plan: RankPlan, loaded: _Loaded, rendezvous: int) -> ParallelModel:
    with loaded.watch.step(_BEGIN_SECONDS):
        for process in loaded.ranks:
            process.send(pack_step((), plan.block_size), plan.stall_seconds)
        group = plan.meet(rendezvous)
        loaded.watch.abort_with(group.abort)
        own = plan.runner(loaded.weights, loaded.caches[0], group, adapters=loaded.stack)
    spec = plan.shard().whole
    shards = KVShards(
        layout=KVLayout.of(spec, block_size=plan.block_size, dtype=plan.dtype),
        num_blocks=plan.num_blocks,
        device_type=plan.device_type,
        shares=loaded.shares,
    )
    runner = ParallelRunner(
        own, loaded.ranks, loaded.watch, spec=spec, shards=shards, stall_seconds=plan.stall_seconds
    )
    return ParallelModel(
        weights=loaded.weights,
        runner=runner,
        caches=loaded.caches,
        shards=shards,
        watch=loaded.watch,
    )

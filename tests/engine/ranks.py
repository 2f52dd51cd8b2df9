"""Tensor-parallel ranks as threads of the test's process: the same code as in processes of their
own, without the seconds that starting those takes."""

import os
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from lengthwise_engine.kv.cache import KVCache
from lengthwise_engine.models.adapters.room import AdapterRoom
from lengthwise_engine.runner.base import SampledToken, SequenceChunk
from lengthwise_engine.runner.graph_recorder import Recorder
from lengthwise_engine.runner.graph_shapes import NO_GRAPHS, GraphPlan
from lengthwise_engine.runner.torch_runner import TorchRunner
from lengthwise_engine.tensor_parallel.rank import RankPlan
from lengthwise_engine.tensor_parallel.steps import AdapterLayer, pack_adapter, pack_step, receive

BLOCK_SIZE = 16
STALL_SECONDS = 10.0


class RanksInThreads:
    """Rank 0 is the caller of `run`; `caches` and `layers` are to look at."""

    def __init__(
        self, plan: RankPlan, rendezvous: int, make_recorder: Callable[[], Recorder | None]
    ) -> None:
        self.plan = plan
        self._make_recorder = make_recorder
        self.caches = [
            KVCache.allocate(plan.of(rank).layout(), plan.num_blocks, torch.device("cpu"))
            for rank in range(plan.size)
        ]
        self.stacks = [plan.of(rank).stack() for rank in range(plan.size)]
        self.errors: list[BaseException] = []
        self._sockets = [socket.socketpair() for _ in range(1, plan.size)]
        self._threads = [
            threading.Thread(target=self._follow, args=(rank, rendezvous), daemon=True)
            for rank in range(1, plan.size)
        ]
        for thread in self._threads:
            thread.start()
        self.runner = self._make_runner(0, rendezvous)
        self._warm_up(self.runner)

    @property
    def cache(self) -> KVCache:
        return self.caches[0]

    @property
    def layout(self) -> object:
        return self.runner.layout

    def run(
        self,
        chunks: Sequence[SequenceChunk],
        on_layer: Callable[[int], None] | None = None,
    ) -> list[SampledToken | None]:
        self._send(pack_step(chunks, BLOCK_SIZE))
        return self.runner.run(chunks, on_layer)

    def fill(self, room: AdapterRoom) -> None:
        """As `load_parallel` does."""
        room.fill([partial(self._store, rank) for rank in range(self.plan.size)])

    def _store(self, rank: int, number: int, layer: int, numbers: torch.Tensor) -> None:
        stack = self.stacks[0]
        if rank:
            self._sockets[rank - 1][0].sendall(pack_adapter(number, layer, numbers))
        elif stack is not None:
            stack.store(number, layer, numbers)

    def _send(self, message: bytes) -> None:
        for ours, _ in self._sockets:
            ours.sendall(message)

    def close(self) -> None:
        for ours, _ in self._sockets:
            ours.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(STALL_SECONDS)
        for pair in self._sockets:
            for end in pair:
                end.close()
        assert not self.errors, self.errors

    def _make_runner(self, rank: int, rendezvous: int) -> TorchRunner:
        plan = self.plan.of(rank)
        weights = plan.load()  # before the ranks meet: then each bounds its wait for the others
        cache, stack = self.caches[rank], self.stacks[rank]
        group = plan.meet(rendezvous)
        return plan.runner(weights, cache, group, self._make_recorder(), adapters=stack)

    def _warm_up(self, runner: TorchRunner) -> None:
        """As ranks on GPUs do, before they capture graphs."""
        if runner.graphs is None:
            runner.warm_up()

    def _follow(self, rank: int, rendezvous: int) -> None:
        _, theirs = self._sockets[rank - 1]
        try:
            runner = self._make_runner(rank, rendezvous)
            self._warm_up(runner)
            while (message := receive(theirs)) is not None:
                if isinstance(message, AdapterLayer):
                    stack = self.stacks[rank]
                    assert stack is not None
                    stack.store(message.number, message.layer, message.data.view(stack.dtype))
                else:
                    runner.run(message)
        except BaseException as error:
            self.errors.append(error)
            raise


@contextmanager
def ranks_in_threads(
    checkpoint: Path,
    size: int,
    num_blocks: int,
    *,
    graphs: GraphPlan = NO_GRAPHS,
    expert_parallel: bool = False,
    make_recorder: Callable[[], Recorder | None] = lambda: None,
    adapters: AdapterRoom | None = None,
) -> Iterator[RanksInThreads]:
    plan = RankPlan(
        checkpoint=str(checkpoint),
        device_type="cpu",
        dtype="float32",
        rank=0,
        size=size,
        num_blocks=num_blocks,
        block_size=BLOCK_SIZE,
        stall_seconds=STALL_SECONDS,
        graphs=graphs,
        expert_parallel=expert_parallel,
    )
    if adapters is not None:
        plan = replace(plan, adapters=adapters.plan)
    rendezvous = os.memfd_create("ranks")
    try:
        ranks = RanksInThreads(plan, rendezvous, make_recorder)
        try:
            if adapters is not None:
                ranks.fill(adapters)
            yield ranks
        finally:
            ranks.close()
    finally:
        os.close(rendezvous)

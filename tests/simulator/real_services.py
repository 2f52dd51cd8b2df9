"""A cluster's real services in virtual time: the router from `InferenceService` on, both workers'
services, links, mailboxes and step loops, over the toy model. What stands in for something real:
the network of calls, the transfer of KV (which takes no time), the thread, and what steps take."""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from simulator.decisions import Decision, Recorder
from simulator.in_process_calls import InProcessNetwork, InProcessServer
from simulator.virtual_time import (
    TimedRunner,
    VirtualClock,
    VirtualLoop,
    VirtualMailbox,
    VirtualStepThread,
)

from lengthwise_decode_worker import app as decode_app
from lengthwise_decode_worker.config import DecodeWorkerConfig
from lengthwise_decode_worker.stepping import step_loop as decode_loop
from lengthwise_engine.loaded_model import load_runner
from lengthwise_engine.runner.base import SequenceChunk
from lengthwise_engine.toy.checkpoint import write_toy_checkpoint
from lengthwise_engine.transfer.base import OnEvent
from lengthwise_engine.transfer.in_process import LocalTransfer, LocalWire
from lengthwise_policy.cost.fit import CostFit
from lengthwise_policy.kv.prefix_cache import PrefixCache
from lengthwise_policy.placement.placement import Placement
from lengthwise_policy.types import RequestId, Role
from lengthwise_prefill_worker import app as prefill_app
from lengthwise_prefill_worker.config import PrefillWorkerConfig
from lengthwise_prefill_worker.kv import link as prefill_link
from lengthwise_prefill_worker.stepping import step_loop as prefill_loop
from lengthwise_router.app import RouterApplication
from lengthwise_router.config import DiscoveryConfig, RouterConfig
from lengthwise_router.serving.generation import Generation
from lengthwise_router.workers import fleet
from lengthwise_runtime.block_log import BlockLog
from lengthwise_runtime.config import Address
from lengthwise_runtime.status import StatusBoard
from lengthwise_simulator.cluster.spec import ClusterSpec, WorkerGroup
from lengthwise_simulator.workload.planned import ArrivingRequest
from lengthwise_wire.v1 import common_pb2, decode_pb2, inference_pb2, worker_pb2, worker_pb2_grpc
from lengthwise_worker import role_worker
from lengthwise_worker.adapters.held import HeldAdapters
from lengthwise_worker.config import WorkerConfig
from lengthwise_worker.endpoint import WorkerEndpoint
from lengthwise_worker.grammars import Grammars
from lengthwise_worker.role_worker import RoleWorker

LONGEST = 4096


class _Transfer(LocalTransfer):
    """Up, always."""

    is_up = True


class _Wire(LocalWire):
    """Moves all at once, without a thread."""

    def __init__(self) -> None:
        self.stall_seconds = self.connect_seconds = 1e9
        self._ends, self._links = {}, {}
        self._corrupted, self._stalled = set(), set()

    def post(self, task: Callable[[], None]) -> None:
        task()
        for name in list(self._links):
            self._pump(name)


class _Engine:
    """What roles take of `Engine`."""

    def __init__(self, config: WorkerConfig, wire: _Wire, number: int) -> None:
        folder = Path(config.model)
        self.model = load_runner(folder, device="cpu", num_blocks=config.num_blocks)
        self.grammars = Grammars(folder, self.model.spec.vocab_size)
        self.adapters = HeldAdapters(None)
        self.transfer_changed = asyncio.Event()
        self.layout_fingerprint = self.model.shards.layout.fingerprint("cpu")
        self._config = config
        self._loop = asyncio.get_running_loop()
        self.transfer = _Transfer(wire, self.model.cache, self._deliver, number)
        wire._ends[self.transfer.rendezvous] = self.transfer

    def take_over(self, on_event: OnEvent) -> PrefixCache:
        self._on_event = on_event
        return PrefixCache(self.model.shards.num_blocks, enabled=self._config.prefix_caching)

    def _deliver(self, event: Any) -> None:
        self._loop.call_soon(self._on_event, event)


class _WorkerServer:
    """In the place of `WorkerServer`."""

    def __init__(
        self,
        network: InProcessNetwork,
        config: WorkerConfig,
        role: Role,
        service: str,
        status: Callable[[], worker_pb2.WorkerStatus],
        endpoint: WorkerEndpoint,
    ) -> None:
        self.worker_id = Address.parse(config.listen).host
        self.registry = CollectorRegistry()
        self.block_log = BlockLog()
        self.board = StatusBoard(status, self.block_log, endpoint.set_role)
        self.guarded = network.servers[config.listen] = InProcessServer()
        worker_pb2_grpc.add_WorkerServicer_to_server(self.board, self.guarded)
        self._config = config

    async def open(self) -> str:
        return self._config.listen

    async def set_ready(self, ready: bool) -> None:
        self.board.changed()


class _Router(RouterApplication):
    """Called directly."""

    async def _listen(self, registry: CollectorRegistry) -> None:
        """Nothing listens."""

    def tokens(self, request: inference_pb2.GenerateRequest) -> Any:
        async def keepalive() -> None:
            """No caller's stream falls silent."""

        return self._service.generate(request, deadline_seconds=1e4, keepalive=keepalive)

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


class RealCluster:
    """Life: construct, `run` once."""

    def __init__(
        self,
        cluster: ClusterSpec,
        fits: Sequence[CostFit],
        folder: Path,
        patch: pytest.MonkeyPatch,
    ) -> None:
        """`fits`: what the workers of each group have measured of their steps."""
        self._cluster = cluster
        self._fits = fits
        self._folder = write_toy_checkpoint(folder / "toy", num_layers=1, context_length=LONGEST)
        self._patch = patch
        self._clock = VirtualClock()
        self._names: dict[RequestId, str] = {}
        self.recorder = Recorder(self._clock, self._name_of)
        self._network = InProcessNetwork(cluster.call_seconds, self._called)
        self._wire = _Wire()
        self._threads: list[VirtualStepThread] = []

    def run(self, requests: Sequence[ArrivingRequest]) -> dict[str, Sequence[Decision]]:
        """The decisions, by who made them."""
        self._replace()
        with asyncio.Runner(loop_factory=lambda: VirtualLoop(self._clock)) as runner:
            return runner.run(self._serve(requests))

    def _replace(self) -> None:
        patch, server = self._patch, partial(_WorkerServer, self._network)
        self.recorder.attach(patch)
        patch.setattr(CostFit, "observe", lambda fit, sample: None)
        patch.setattr(time, "monotonic", self._clock)
        patch.setattr(asyncio, "to_thread", _inline)
        patch.setattr(role_worker, "WorkerServer", server)
        patch.setattr(role_worker, "StepThread", VirtualStepThread)
        for app in (prefill_app, decode_app):
            patch.setattr(app, "Mailbox", VirtualMailbox)
        for caller in (fleet, prefill_link):
            patch.setattr(caller, "open_channel", self._network.channel)
        for loop in (prefill_loop.PrefillLoop, decode_loop.DecodeLoop):
            defaults: Any = loop.__init__.__kwdefaults__
            patch.setitem(defaults, "clock", self._clock)

        def placed(generation: Generation, placement: Placement) -> None:
            self.recorder.placed(generation.request.request_id, placement)
            original(generation, placement)

        original = Generation.placed
        patch.setattr(Generation, "placed", placed)

    async def _serve(self, requests: Sequence[ArrivingRequest]) -> dict[str, Sequence[Decision]]:
        workers = {}
        for number, (name, group) in enumerate(self._cluster.workers()):
            workers[name] = worker = self._worker(name, group, number)
            await worker.start()
            self._threads.append(worker._thread)  # type: ignore[arg-type]
        router = _Router(self._router_config([f"{name}:1" for name in workers]))
        await router.start()
        async with asyncio.TaskGroup() as asked:
            for number, request in enumerate(requests):
                asked.create_task(self._ask(router, request, str(number)))
        schedulers = {name: worker._loop._scheduler for name, worker in workers.items()}  # type: ignore[attr-defined]
        for worker in workers.values():
            worker._readiness.cancel()
        await router.stop()
        await self._network.close()
        for thread in self._threads:
            thread.stop(0.0)
        await asyncio.sleep(1.0)
        return self.recorder.of(schedulers)

    async def _ask(self, router: _Router, request: ArrivingRequest, number: str) -> None:
        await asyncio.sleep(request.arrived_at - self._clock())
        message = inference_pb2.GenerateRequest(
            request_id=number,
            prompt=inference_pb2.Prompt(token_ids=common_pb2.TokenIds(ids=token_ids(request))),
            max_tokens=request.max_new_tokens,
        )
        count = 0
        async for response in router.tokens(message):
            count += len(response.token_ids)
        assert count == request.output_tokens

    def _worker(self, name: str, group: WorkerGroup, number: int) -> RoleWorker:
        cluster, fit = self._cluster, self._fits[self._cluster.groups.index(group)]
        policies = cluster.policies
        common: dict[str, Any] = {
            "model": str(self._folder),
            "listen": f"{name}:1",
            "num_blocks": group.kv_tokens // cluster.block_size,
            "prefix_caching": policies.prefix_caching,
            "objectives": policies.objectives,
        }
        kind: type[RoleWorker]
        if group.role == "prefill":
            self._patch.setattr(prefill_loop, "CostFit", lambda: fit)
            config: WorkerConfig = PrefillWorkerConfig(**common, policy=policies.prefill)
            kind = prefill_app.PrefillWorker
        else:
            self._patch.setattr(decode_loop, "CostFit", lambda: fit)
            config = DecodeWorkerConfig(**common, policy=policies.decode)
            kind = decode_app.DecodeWorker
        engine = _Engine(config, self._wire, number)
        seconds = partial(self._seconds, group, lambda: worker)
        runner = TimedRunner(engine.model.runner, seconds)
        engine.model = replace(engine.model, runner=runner)
        worker: RoleWorker = kind(config, engine, WorkerEndpoint(config))  # type: ignore[arg-type]
        return worker

    def _seconds(
        self,
        group: WorkerGroup,
        worker: Callable[[], RoleWorker],
        chunks: Sequence[SequenceChunk],
    ) -> float:
        num_rows = 0
        if group.role == "decode":
            step = self.recorder.last_steps[worker()._loop._scheduler]  # type: ignore[attr-defined]
            num_rows = len(step.request_ids)
        prompts = [(len(chunk.token_ids), chunk.start) for chunk in chunks[num_rows:]]
        context = sum(chunk.end for chunk in chunks[:num_rows])
        return group.costs.step_seconds(prompts, num_rows, context)

    def _router_config(self, endpoints: list[str]) -> RouterConfig:
        policies = self._cluster.policies
        return RouterConfig(
            discovery=DiscoveryConfig(endpoints=tuple(endpoints)),
            model=str(self._folder),
            strategy=policies.strategy,
            local_prefill=policies.placement.local_prefill,
            objectives=policies.objectives,
            max_requests_in_flight=policies.admission.max_requests_in_flight,
            max_queued=policies.admission.max_queued,
            message_interval_seconds=0.0,
            metrics_listen="",
        )

    def _called(self, address: str, request: Any) -> None:
        if isinstance(request, decode_pb2.ReserveRequest):
            name = RequestId(f"{request.router_id}/{request.reservation}")
            self._names[name] = request.request_id

    def _name_of(self, request_id: RequestId) -> str:
        return self._names.get(request_id) or request_id.partition("#")[0]


def token_ids(request: ArrivingRequest) -> list[int]:
    """Equal spans of text have equal tokens."""
    found: list[int] = []
    for span in request.text:
        is_last = span is request.text[-1]
        count = request.prompt_tokens - len(found) if is_last else span.num_tokens
        found += Random(span.key).choices(range(32, 127), k=count)
    return found


async def _inline(function: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    return function(*arguments, **named)

"""A router in this process between real gRPC clients and stub workers, with patience cut short so
that what must be bounded shows itself to be."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import grpc
import pytest
from harness.samples import Series, samples_of
from harness.waiting import eventually
from router.stub_workers import StubDecode, StubPrefill, StubWorker, start_stubs

from lengthwise_router.app import RouterApplication
from lengthwise_router.config import DiscoveryConfig, RouterConfig
from lengthwise_router.serving.models.served_model import ServedModel
from lengthwise_wire.v1 import common_pb2, inference_pb2, inference_pb2_grpc, worker_pb2

PROMPT = tuple(b"once upon a time")

QUICK: dict[str, float] = {
    "no_worker_seconds": 0.6,
    "reserve_timeout_seconds": 1.0,
    "prefill_timeout_seconds": 1.0,
    "transfer_timeout_seconds": 0.5,
    "token_timeout_seconds": 0.8,
    "heartbeat_timeout_seconds": 0.5,
    "step_stall_seconds": 0.5,
    "keepalive_seconds": 0.2,
    "drain_seconds": 2.0,
    "local_prefill": False,
}
"""Of tests that ask for nothing else. Stubs report their status every 0.05 s. A decode worker that
steps in for every prefill worker that fails would hide what happens without it."""

FAST = worker_pb2.CostModel(step_seconds=0.001, token_seconds=1e-5)
SLOW_LINK = {"cost": FAST, "kv_bytes_per_token": 1000, "kv_bytes_per_second": 1e6}
"""Of a status: 16 ms for the prompt's KV, which would take 1 ms to compute."""


@dataclass(slots=True)
class Answer:
    """All that one call gave."""

    messages: list[inference_pb2.GenerateResponse] = field(default_factory=list)

    @property
    def token_ids(self) -> list[int]:
        return [token_id for message in self.messages for token_id in message.token_ids]

    @property
    def text(self) -> str:
        return "".join(message.text for message in self.messages)

    @property
    def last(self) -> inference_pb2.GenerateResponse:
        return self.messages[-1]

    @property
    def keepalives(self) -> int:
        return sum(not message.ByteSize() for message in self.messages)

    def check_indices(self) -> None:
        """Every token has the index that follows the one before it."""
        with_tokens = [message for message in self.messages if message.token_ids]
        expected = with_tokens[0].index if with_tokens else 0
        for message in with_tokens:
            assert message.index == expected
            expected += len(message.token_ids)


@dataclass(slots=True)
class Deployment:
    """A router, its workers, and a client."""

    app: RouterApplication
    stub: Any
    prefill: list[StubPrefill]
    decode: list[StubDecode]

    @property
    def workers(self) -> Sequence[StubWorker]:
        return (*self.prefill, *self.decode)

    async def generate(self, *, seconds: float | None = 10.0, **fields: Any) -> Answer:
        """Asks and reads to the end; `fields` are GenerateRequest's. Errors: AioRpcError."""
        answer = Answer()
        async for message in self.stub.Generate(request(**fields), timeout=seconds):
            answer.messages.append(message)
        answer.check_indices()
        return answer

    def call(self, *, seconds: float | None = 10.0, **fields: Any) -> Any:
        """Asks, and leaves reading and cancelling to the test."""
        return self.stub.Generate(request(**fields), timeout=seconds)

    async def refused(self, **fields: Any) -> Any:
        """The error that a call ends with."""
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await self.generate(**fields)
        return caught.value

    async def refused_bytes(self, message: bytes) -> Any:
        """The error that Generate ends with for bytes of a test's own making."""
        async with grpc.aio.insecure_channel(str(self.app.address)) as channel:
            generate = channel.unary_stream("/lengthwise.v1.Inference/Generate", None, None)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await generate(message).read()
        return caught.value

    async def ready(self, num_workers: int | None = None) -> None:
        """Returns when the router uses all workers, or this many."""
        expected = len(self.workers) if num_workers is None else num_workers
        await eventually(lambda: len(self.usable()) == expected)

    def usable(self) -> list[str]:
        fleet = self.app._fleet
        return [worker.worker_id for worker in fleet.workers if worker.is_usable]

    @property
    def served(self) -> ServedModel:
        """Where one model is served."""
        return self.app._models.find("")

    @property
    def in_flight(self) -> int:
        return self.served.gate.in_flight

    async def metric(self, name: str, **labels: str) -> float:
        """The sum of the samples with these labels, as a scrape finds them."""
        samples = await asyncio.to_thread(samples_of, self.app.metrics_address)
        wanted = labels.items()
        return sum(
            value for (each, has), value in samples.items() if each == name and wanted <= has
        )

    async def series(self) -> set[Series]:
        """All that a scrape finds."""
        return set(await asyncio.to_thread(samples_of, self.app.metrics_address))

    async def nothing_is_held(self, seconds: float = 1.0) -> None:
        """Fails unless within that time no worker holds anything for any request."""
        await eventually(
            lambda: (
                not any(worker.held for worker in self.decode)
                and not any(worker.running for worker in self.prefill)
            ),
            seconds,
        )


def request(
    *, prompt: str | Sequence[int] | inference_pb2.Prompt = PROMPT, **fields: Any
) -> inference_pb2.GenerateRequest:
    if isinstance(prompt, str):
        prompt = inference_pb2.Prompt(text=prompt)
    elif not isinstance(prompt, inference_pb2.Prompt):
        prompt = inference_pb2.Prompt(token_ids=common_pb2.TokenIds(ids=prompt))
    return inference_pb2.GenerateRequest(prompt=prompt, **fields)


class Deploy(Protocol):
    """Starts a deployment that the test's end stops."""

    async def __call__(
        self,
        num_prefill: int = 1,
        num_decode: int = 1,
        *,
        step_seconds: float = 0.002,
        **config: Any,
    ) -> Deployment: ...


@asynccontextmanager
async def deploying(checkpoint: Path, **defaults: Any) -> AsyncIterator[Deploy]:
    """What it has started it stops; `defaults` are the configuration's."""
    async with AsyncExitStack() as stack:

        async def start(
            num_prefill: int = 1,
            num_decode: int = 1,
            *,
            step_seconds: float = 0.002,
            **config: Any,
        ) -> Deployment:
            config = {**defaults, **config}
            return await stack.enter_async_context(
                deployed(checkpoint, num_prefill, num_decode, step_seconds, config)
            )

        yield start


class Running(Protocol):
    """Starts stub workers that the test's end stops."""

    async def __call__(self, *workers: StubWorker) -> None: ...


@asynccontextmanager
async def deployed(
    checkpoint: Path,
    num_prefill: int,
    num_decode: int,
    step_seconds: float,
    config: dict[str, Any],
) -> AsyncIterator[Deployment]:
    prefill, decode = await start_stubs(num_prefill, num_decode, step_seconds=step_seconds)
    extra = config.pop("extra_endpoints", [])
    endpoints = (*(worker.address for worker in (*prefill, *decode)), *extra)
    if endpoints:
        config = {"discovery": DiscoveryConfig(endpoints=endpoints), **config}
    is_complete = endpoints and not extra
    async with AsyncExitStack() as stack:
        for worker in (*prefill, *decode):
            stack.push_async_callback(worker.stop)
        app = RouterApplication(
            RouterConfig(
                **{
                    "model": str(checkpoint),
                    "listen": "127.0.0.1:0",
                    "metrics_listen": "",
                    **QUICK,
                    **config,
                }
            )
        )
        await app.start()
        stack.push_async_callback(app.drain)
        channel = grpc.aio.insecure_channel(str(app.address))
        stack.push_async_callback(channel.close, None)
        deployment = Deployment(app, inference_pb2_grpc.InferenceStub(channel), prefill, decode)
        if is_complete:
            await deployment.ready()
        yield deployment

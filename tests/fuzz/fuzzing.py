"""Messages to every method and port of a deployment, and what must hold afterwards."""

import asyncio
import math
import re
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from random import Random
from typing import Any

import grpc
import psutil
from fuzz.grammar import Grammar
from google.protobuf.descriptor import MethodDescriptor
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from harness.workers import oracle, prompt_of, transfer_processes_of

import lengthwise
from lengthwise_checkpoint.toy import ToySpec
from lengthwise_local import LocalCluster, Process
from lengthwise_wire.v1 import (
    decode_pb2,
    inference_pb2,
    prefill_pb2,
    worker_pb2,
    worker_pb2_grpc,
)

AT_ONCE = 128

MAX_SHOWN = 3
"""Lines of each process's log that should not be there."""

EVERYWHERE = (health_pb2, reflection_pb2)
SERVED = {
    "router": (inference_pb2,),
    "prefill": (prefill_pb2, worker_pb2),
    "decode": (decode_pb2, worker_pb2),
}
FORBIDDEN = re.compile("Traceback|CRITICAL|unexpected error|transfer process lost")


@dataclass(slots=True)
class Result:
    """What was sent, how it was answered, and what is wrong."""

    num_messages: int = 0
    answers: Counter[str] = field(default_factory=Counter)
    troubles: list[str] = field(default_factory=list)
    peak_mib: float = 0.0


@dataclass(frozen=True, slots=True)
class _Target:
    channel: grpc.aio.Channel
    method: MethodDescriptor


async def fuzz(
    cluster: LocalCluster,
    spec: ToySpec,
    seed: int,
    num_messages: int,
    seconds: float = math.inf,
) -> Result:
    """Ends after so many messages, or `seconds`. Afterwards every process must be the one it was,
    have logged no traceback, and answer as `spec` says."""
    result, random = Result(), Random(seed)
    ends_at = time.monotonic() + seconds
    before = {each.name: _identity(each) for each in cluster.processes}
    channels = {each.name: grpc.aio.insecure_channel(each.address) for each in cluster.processes}
    targets = [
        _Target(channels[each.name], method)
        for each in cluster.processes
        for module in (*SERVED[each.role], *EVERYWHERE)
        for service in module.DESCRIPTOR.services_by_name.values()
        for method in service.methods
    ]
    rendezvous = [port for each in cluster.workers for port in _ports_of_children(each)]
    addresses = [each.address for each in cluster.processes]
    metrics = [each.metrics_address for each in cluster.processes]
    ports = [_port(address) for address in (*addresses, *metrics)]
    statuses = [await _status(channels[worker.name]) for worker in cluster.workers]
    fingerprints = (statuses[0].model_fingerprint, statuses[0].layout_fingerprint)
    names = [status.worker_id for status in statuses]
    grammar = Grammar(random, [*fingerprints * 6, *("fuzz",) * 4, *names, *addresses])

    def next_one() -> Callable[[], Awaitable[str]]:
        kind = random.random()
        if kind < 0.1:
            port, frames = random.choice(rendezvous), grammar.frame()
            return lambda: _send(port, frames)
        if kind < 0.15:
            port, data = random.choice(ports), random.randbytes(random.choice((1, 9, 400)))
            return lambda: _send(port, data)
        target = random.choice(targets)
        count = random.choice((1, 1, 2, 4)) if target.method.client_streaming else 1
        messages = [grammar.message(target.method.input_type) for _ in range(count)]
        if target.method.name == "Transfer" and random.random() < 0.7:
            messages.insert(0, _hello(random, fingerprints))
        deadline = random.choice((0.05, 0.5, 1.0))
        return lambda: _call(target, messages, deadline)

    async def send_some() -> None:
        while result.num_messages < num_messages and time.monotonic() < ends_at:
            result.num_messages += 1
            result.answers[await next_one()()] += 1

    await asyncio.gather(*(send_some() for _ in range(AT_ONCE)))
    result.peak_mib = max(_mib(each) for each in cluster.processes)
    for channel in channels.values():
        await channel.close(None)
    await _judge(result, cluster, spec, before)
    return result


async def _status(channel: grpc.aio.Channel) -> worker_pb2.WorkerStatus:
    watch: Any = worker_pb2_grpc.WorkerStub(channel).Watch(worker_pb2.WatchRequest())
    status: worker_pb2.WorkerStatus = await watch.read()
    watch.cancel()
    return status


def _hello(random: Random, fingerprints: tuple[str, str]) -> bytes:
    """Opens the control stream of a link, so that the frames after it are read."""
    model, layout = fingerprints
    hello = decode_pb2.TransferHello(
        worker_id="fuzz",
        model_fingerprint=model,
        layout_fingerprint=layout,
        link=f"fuzz/{random.getrandbits(64)}",
    )
    return decode_pb2.TransferFrame(hello=hello).SerializeToString()


async def _call(target: _Target, messages: Sequence[bytes], seconds: float) -> str:
    """The name of the status. The first messages of a stream's answer are read."""
    method = target.method
    path = f"/{method.containing_service.full_name}/{method.name}"
    call: Any = target.channel.stream_stream(path, None, None)(iter(messages), timeout=seconds)
    try:
        for _ in range(3):
            if not await call.read():
                break
        call.cancel()
    except grpc.aio.AioRpcError as error:
        return error.code().name
    except asyncio.CancelledError:
        return "CANCELLED"
    return "OK"


async def _send(port: int, data: bytes) -> str:
    with suppress(OSError, TimeoutError):
        async with asyncio.timeout(2.0):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                writer.write(data)
                with suppress(TimeoutError):
                    await asyncio.wait_for(reader.read(100), 0.1)
            finally:
                writer.close()
    return "bytes"


async def _judge(
    result: Result, cluster: LocalCluster, spec: ToySpec, before: dict[str, tuple[int, ...]]
) -> None:
    for process in cluster.processes:
        if _identity(process) != before[process.name]:
            result.troubles.append(f"{process.name} is another process, or its transfer process is")
        lines = process.log_path.read_text(errors="replace").splitlines()
        found = [number for number, line in enumerate(lines) if FORBIDDEN.search(line)]
        for number in found[:MAX_SHOWN]:
            shown = "\n  ".join(line[:200] for line in lines[number - 2 : number + 25])
            result.troubles.append(f"{process.name}:\n  {shown}")
        result.troubles += [f"{process.name}: and more" for _ in found[MAX_SHOWN:]]
    prompt = prompt_of(300)
    async with lengthwise.AsyncClient(cluster.endpoints) as client:
        answer = await client.generate(prompt, max_tokens=12, temperature=0, timeout=60.0)
    if list(answer.token_ids) != oracle(prompt, 12, spec):
        result.troubles.append(f"the answer is wrong: {answer.token_ids}")


def _identity(process: Process) -> tuple[int, ...]:
    """The process, and a worker's transfer process; a router's sandboxes come and go."""
    children = [] if process.role == "router" else transfer_processes_of(process.pid)
    return (process.pid, *sorted(child.pid for child in children))


def _ports_of_children(process: Process) -> list[int]:
    return [
        each.laddr.port
        for child in transfer_processes_of(process.pid)
        for each in child.net_connections("tcp")
        if each.status == psutil.CONN_LISTEN
    ][:1]


def _port(address: str) -> int:
    return int(address.rpartition(":")[2])


def _mib(process: Process) -> float:
    return float(psutil.Process(process.pid).memory_info().rss) / 2**20

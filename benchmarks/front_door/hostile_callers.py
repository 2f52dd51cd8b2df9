"""What one hostile caller costs another: how long a tiny request waits, and the router's memory.

A router stands alone. One process sends a heavy input again and again, `CONCURRENCY` calls at a
time, or a flood of small ones; this one asks for the tokens of five letters every 10 ms. Budgets:
p99 at most 50 ms, the router and its children 600 MiB. `--python` of another checkout measures that
one's router:

    python -m front_door.hostile_callers --python ../before/.venv/bin/python --commit fe0e288
"""

import argparse
import asyncio
import contextlib
import json
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import grpc
import psutil
from rows import append_rows

from lengthwise_engine.toy.checkpoint import write_toy_checkpoint
from lengthwise_local import Process
from lengthwise_wire.v1 import inference_pb2, inference_pb2_grpc

SECONDS = 4.0
ANSWER_SECONDS = 20.0
"""A tiny request that takes longer has taken as long."""

CONCURRENCY = 4
CONTEXT_TOKENS = 32_768
MIB = 1 << 20

TEMPLATE = (
    "{% for m in messages %}{% if m.content == 'loop' %}{% for i in range(99999) %}"
    "{% for j in range(99999) %}{% endfor %}{% endfor %}{% elif m.content == 'grow' %}"
    "{{ (m.role * 150000000)|length }}{% else %}{% for line in m.content.split('\n') %}{{ line }}"
    "{% endfor %}{% endif %}{% endfor %}"
)

LARGE = [("grpc.max_send_message_length", 16 << 20), ("grpc.use_local_subchannel_pool", 1)]


def varint(number: int) -> bytes:
    low, high = number & 127, number >> 7
    return bytes([low | 128]) + varint(high) if high else bytes([low])


def field(number: int, body: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(body)) + body


def text(content: str) -> bytes:
    return field(3, field(1, content.encode()))


def conversation(*contents: str) -> bytes:
    messages = [inference_pb2.ChatMessage(role="user", content=content) for content in contents]
    prompt = inference_pb2.Prompt(conversation=inference_pb2.Conversation(messages=messages))
    return inference_pb2.GenerateRequest(prompt=prompt).SerializeToString()


def inputs() -> Mapping[str, bytes]:
    """GenerateRequests, encoded."""
    hello = text("a")
    return {
        "nothing": b"",
        "4.2 million empty messages": field(3, field(3, b"\x0a\x00" * (4 * MIB - 40))),
        "2.6 million empty messages": field(3, field(3, b"\x0a\x00" * (5 * MIB // 2 - 40))),
        "8 million token ids": field(3, field(2, field(1, b"\x05" * (8 * MIB - 40)))),
        "4 million token ids": field(3, field(2, field(1, b"\x05" * (4 * MIB)))),
        "a million token ids": field(3, field(2, field(1, b"\x05" * MIB))),
        "4.2 million unpacked token ids": field(3, field(2, b"\x08\x05" * (4 * MIB - 40))),
        "8 million resumed ids": hello
        + field(4, b"\x40\x01")
        + field(8, field(1, b"\x05" * (8 * MIB - 60))),
        "4.2 million empty stop strings": hello + field(5, b"\x0a\x00" * (4 * MIB - 40)),
        "700,000 biases": hello
        + field(4, b"".join(field(10, b"\x08" + varint(each)) for each in range(700_000))),
        "4 MB of digits": text("0123456789" * (4 * MIB // 10)),
        "4 MB of one letter": text("a" * (4 * MIB)),
        "4 MB of spaces and tabs": text(" \t" * (2 * MIB)),
        "4 MB of ideographs": text("\u4e2d" * 1_390_000),
        "4 MB of accents": text("a\u0301" * 1_390_000),
        "64 KB of digits": text("0123456789" * 6_500),
        "4,096 messages of 900 lines": conversation(*["\n" * 900] * 4096),
        "a template that loops": conversation("loop"),
        "a template that takes 600 MB": conversation("grow"),
        "a model's name of 1 MB": field(2, b"m" * MIB) + hello,
        "a stop string of 8 MB": hello + field(5, field(1, b"a" * (8 * MIB - 60))),
    }


@dataclass(frozen=True, slots=True)
class Calls:
    """What the hostile process sends: so many calls at once on each of its connections."""

    message: bytes
    path: str = "/lengthwise.v1.Inference/Generate"
    connections: int = CONCURRENCY
    at_once: int = 1


def floods() -> Mapping[str, Calls]:
    """Of small calls."""
    prompt = inference_pb2.Prompt(text="hello")
    tokenize = inference_pb2.TokenizeRequest(prompt=prompt).SerializeToString()
    generate = inference_pb2.GenerateRequest(prompt=prompt).SerializeToString()
    explain = inference_pb2.ExplainRequest(request_id="x").SerializeToString()
    inference, health = "/lengthwise.v1.Inference", "/grpc.health.v1.Health"
    return {
        "flood of Tokenize": Calls(tokenize, f"{inference}/Tokenize", 1, 1000),
        "flood of Tokenize on 50": Calls(tokenize, f"{inference}/Tokenize", 50, 20),
        "flood of Generate": Calls(generate, f"{inference}/Generate", 1, 1000),
        "flood of Explain": Calls(explain, f"{inference}/Explain", 1, 1000),
        "flood of GetModel": Calls(b"", f"{inference}/GetModel", 1, 1000),
        "flood of health": Calls(b"", f"{health}/Check", 1, 1000),
        "flood of an unknown method": Calls(b"", "/none/Such", 1, 1000),
    }


async def send(address: str, calls: Calls, stop: Event) -> None:
    async def call_often(method: Any) -> None:
        while not stop.is_set():
            try:
                async for _ in method(calls.message, timeout=20):
                    pass
            except grpc.aio.AioRpcError:
                await asyncio.sleep(0.001)

    async def connection() -> None:
        async with grpc.aio.insecure_channel(address, options=LARGE) as channel:
            method = channel.unary_stream(calls.path, None, None)
            await asyncio.gather(*(call_often(method) for _ in range(calls.at_once)))

    await asyncio.gather(*(connection() for _ in range(calls.connections)))


def hostile(address: str, calls: Calls, stop: Event) -> None:
    asyncio.run(send(address, calls, stop))


async def ask(address: str, seconds: float) -> list[float]:
    """The seconds that each tiny request took."""
    taken: list[float] = []
    tiny = inference_pb2.TokenizeRequest(prompt=inference_pb2.Prompt(text="hello"))
    async with grpc.aio.insecure_channel(address, options=LARGE) as channel:
        stub = inference_pb2_grpc.InferenceStub(channel)
        with contextlib.suppress(grpc.aio.AioRpcError):
            await stub.Tokenize(tiny, timeout=ANSWER_SECONDS)
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            began_at = time.monotonic()
            with contextlib.suppress(grpc.aio.AioRpcError):
                await stub.Tokenize(tiny, timeout=ANSWER_SECONDS)
            taken.append(time.monotonic() - began_at)
            await asyncio.sleep(0.01)
    return taken


def peak_mib(process: psutil.Process) -> float:
    """The most that it has had, and its children: each at its own time, so at worst."""
    kib = 0
    for each in (process, *process.children(recursive=True)):
        for line in Path(f"/proc/{each.pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                kib += int(line.split()[1])
    return kib / 1024


def measure(python: str, name: str, calls: Calls, folder: Path, model: Path) -> dict[str, object]:
    (folder / "announced").mkdir(parents=True)
    router = Process(
        name="router",
        role="router",
        command=(python, "-m", "lengthwise_router"),
        config={
            "model": str(model),
            "listen": "127.0.0.1:0",
            "metrics_listen": "",
            "announce_folder": str(folder / "announced"),
            "discovery": {"endpoints": ["127.0.0.1:9"]},
            "no_worker_seconds": 0.1,
        },
        folder=folder,
        env={**os.environ, "PYTHONSAFEPATH": "1"},
    )
    router.start()
    try:
        router.wait_ready(60)
        stop = multiprocessing.Event()
        caller = multiprocessing.Process(target=hostile, args=(router.address, calls, stop))
        is_alone = name == "nothing"
        if not is_alone:
            caller.start()
        time.sleep(0.5)
        taken = sorted(asyncio.run(ask(router.address, SECONDS)))
        peak = peak_mib(psutil.Process(router.pid))
        stop.set()
        if not is_alone:
            caller.join(30)
            caller.kill()
    finally:
        router.kill()
        router.wait(10)
    return {
        "input": name,
        "input_bytes": len(calls.message),
        "concurrency": calls.connections * calls.at_once,
        "context_tokens": CONTEXT_TOKENS,
        "tiny_requests": len(taken),
        "tiny_p50_ms": round(taken[len(taken) // 2] * 1e3, 1),
        "tiny_p99_ms": round(taken[len(taken) * 99 // 100] * 1e3, 1),
        "tiny_max_ms": round(taken[-1] * 1e3, 1),
        "peak_mib": round(peak),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--python", default=sys.executable, help="whose router is measured")
    parser.add_argument("--commit", default="", help="that of `--python`, for the rows")
    parser.add_argument("--only", default="", help="inputs whose name contains this")
    parser.add_argument("--dry", action="store_true", help="print rows without recording them")
    arguments = parser.parse_args()
    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        model = write_toy_checkpoint(folder / "toy", context_length=CONTEXT_TOKENS)
        (model / "tokenizer_config.json").write_text(json.dumps({"chat_template": TEMPLATE}))
        heavy = {name: Calls(message) for name, message in inputs().items()}
        for number, (name, calls) in enumerate({**heavy, **floods()}.items()):
            if arguments.only in name:
                row = measure(arguments.python, name, calls, folder / str(number), model)
                rows.append({**({"commit": arguments.commit} if arguments.commit else {}), **row})
                print(rows[-1], flush=True)
    if not arguments.dry:
        append_rows("hostile_callers", rows)


if __name__ == "__main__":
    main()

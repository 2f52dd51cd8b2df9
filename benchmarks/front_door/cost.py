"""What a streamed request costs the front door: milliseconds of CPU of its process and all that
descends from it, ours and others' in one run, in turns.

Aims for 1, 16 and 128 tokens, prompts of 141 tokens, 16 at once: gRPC 0.8, 1.6 and 3.5 ms, HTTP
1.0, 1.9 and 4.5 ms.

    LENGTHWISE_DYNAMO_PYTHON   of an environment with ai-dynamo==1.4.2
    LENGTHWISE_SGLANG_PYTHON   of an environment with sglang-router==0.3.2
    LENGTHWISE_BEFORE_PYTHON   of another checkout, to compare with

Others are left out where their variable is not set.
"""

import argparse
import asyncio
import os
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from statistics import median

import httpx
import psutil
from cpu import CpuWatch
from rows import append_rows

from front_door.fronts import Front, before, dynamo, ours, sglang
from front_door.router_cpu import Result, cpu_seconds, load, percentile_ms

CONCURRENCY = 16

AIMS_MS = {"gRPC": {1: 0.8, 16: 1.6, 128: 3.5}, "HTTP": {1: 1.0, 16: 1.9, 128: 4.5}}

WARM_UP_REQUESTS = 100

Fronts = Callable[[], AbstractContextManager[list[Front]]]


def cpu_of_all(process: psutil.Process) -> float:
    """Seconds, of it and of all that descends from it."""
    return sum(cpu_seconds(each) for each in (process, *process.children(recursive=True)))


async def load_http(front: Front, *, requests: int, tokens_out: int) -> Result:
    """Sends `requests`, `CONCURRENCY` at a time, and reads every stream to its end."""
    result = Result(0.0, 0.0)
    waiting = iter(range(requests))
    body = {
        "model": front.model, "prompt": front.prompt, "max_tokens": tokens_out, "stream": True,
        **front.options,
    }  # fmt: skip
    url = f"http://{front.address}/v1/completions"
    async with httpx.AsyncClient(timeout=60) as http:

        async def client() -> None:
            for _ in waiting:
                began_at = time.perf_counter()
                first_at, last = 0.0, ""
                async with http.stream("POST", url, json=body) as answer:
                    answer.raise_for_status()
                    async for line in answer.aiter_lines():
                        if line:
                            first_at, last = first_at or time.perf_counter(), line
                            result.num_messages += 1
                if last != "data: [DONE]":
                    raise RuntimeError(f"got {last!r} at the end of a stream")
                result.latencies.append(time.perf_counter() - began_at)
                result.first_tokens.append(first_at - began_at)

        await asyncio.gather(*(client() for _ in range(CONCURRENCY)))
    return result


def measure(front: Front, *, requests: int, tokens_out: int) -> Result:
    process = psutil.Process(front.pid)
    before, began_at = cpu_of_all(process), time.perf_counter()
    if front.is_grpc:
        result = asyncio.run(
            load(
                front.address, process,
                requests=requests, concurrency=CONCURRENCY, tokens_out=tokens_out,
            )
        )  # fmt: skip
    else:
        result = asyncio.run(load_http(front, requests=requests, tokens_out=tokens_out))
    result.cpu_ms_per_request = (cpu_of_all(process) - before) / requests * 1e3
    result.requests_per_second = requests / (time.perf_counter() - began_at)
    return result


def arms() -> list[Fronts]:
    """Those that are there."""
    others = {
        "LENGTHWISE_BEFORE_PYTHON": before, "LENGTHWISE_DYNAMO_PYTHON": dynamo,
        "LENGTHWISE_SGLANG_PYTHON": sglang,
    }  # fmt: skip
    found: list[Fronts] = [ours]
    for name, arm in others.items():
        if python := os.environ.get(name):
            found.append(lambda arm=arm, python=python: arm(python))  # type: ignore[misc]
        else:
            print(f"{name} is not set: left out")
    return found


def row(
    front: Front, tokens_out: int, results: Sequence[Result], foreign: float
) -> dict[str, object]:
    latencies = [each for result in results for each in result.latencies]
    first_tokens = [each for result in results for each in result.first_tokens]
    num_requests = len(latencies)
    return {
        "front": front.name,
        "requests": num_requests,
        "rounds": len(results),
        "concurrency": CONCURRENCY,
        "tokens_out": tokens_out,
        "cpu_ms_per_request": round(median(each.cpu_ms_per_request for each in results), 3),
        "aim_ms": AIMS_MS.get(front.name, {}).get(tokens_out, ""),
        "messages_per_request": round(sum(each.num_messages for each in results) / num_requests, 1),
        "requests_per_second": round(median(each.requests_per_second for each in results), 1),
        "latency_p50_ms": percentile_ms(latencies, 50),
        "latency_p99_ms": percentile_ms(latencies, 99),
        "first_token_p50_ms": percentile_ms(first_tokens, 50),
        "first_token_p99_ms": percentile_ms(first_tokens, 99),
        "foreign_cores": round(foreign, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=300, help="of each arm in each round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, nargs="+", default=[1, 16, 128])
    parser.add_argument("--dry", action="store_true", help="print rows without recording them")
    arguments = parser.parse_args()
    found: dict[tuple[str, int], list[Result]] = {}
    fronts_by_name: dict[str, Front] = {}
    foreign: dict[tuple[str, int], float] = {}
    for _ in range(arguments.rounds):
        for arm in arms():
            with arm() as fronts:
                for front in fronts:
                    fronts_by_name[front.name] = front
                    measure(front, requests=WARM_UP_REQUESTS, tokens_out=2)
                    for tokens_out in arguments.tokens:
                        key, watch = (front.name, tokens_out), CpuWatch()
                        result = measure(front, requests=arguments.requests, tokens_out=tokens_out)
                        foreign[key] = max(foreign.get(key, 0.0), watch.use().foreign)
                        found.setdefault(key, []).append(result)
                        print(*key, round(result.cpu_ms_per_request, 3), flush=True)
    rows = [
        row(fronts_by_name[name], tokens_out, results, foreign[name, tokens_out])
        for (name, tokens_out), results in found.items()
    ]
    for each in rows:
        print(each)
    if not arguments.dry:
        append_rows("front_door", rows)


if __name__ == "__main__":
    main()

"""What a request costs the router: milliseconds of CPU of its process, and the latency clients see.

Runs a local cluster with the toy model: router, one prefill worker, one decode worker, and this
process as the client, all on the same cores, so latencies are those of a machine that is also busy
with everything else. CPU time of the router's process alone is exact whatever else runs.

Budgets (prompts of about 140 tokens): 0.9 ms for 1 token out, 1.8 ms for 16, 4 ms for 128.
"""

import argparse
import asyncio
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import psutil
from rows import append_rows

from lengthwise_engine.toy.checkpoint import write_toy_checkpoint
from lengthwise_local import LocalCluster
from lengthwise_wire.v1 import inference_pb2, inference_pb2_grpc

PROMPT = "The quick brown fox jumps over the lazy dog. " * 3 + "Go on."
"""141 tokens: the toy's tokens are bytes."""

BUDGET_MS = {1: 0.9, 16: 1.8, 128: 4.0}

WARM_UP_REQUESTS = 200


@dataclass(slots=True)
class Result:
    """What some requests cost."""

    cpu_ms_per_request: float
    requests_per_second: float
    latencies: list[float] = field(default_factory=list)
    first_tokens: list[float] = field(default_factory=list)
    num_messages: int = 0
    num_retries: int = 0


def percentile_ms(seconds: list[float], percent: int) -> float:
    return round(sorted(seconds)[min(len(seconds) * percent // 100, len(seconds) - 1)] * 1e3, 1)


async def load(
    endpoint: str, router: psutil.Process, *, requests: int, concurrency: int, tokens_out: int
) -> Result:
    """Sends `requests`, `concurrency` at a time, and reads every answer to its end."""
    result = Result(0.0, 0.0)
    waiting = iter(range(requests))
    async with grpc.aio.insecure_channel(endpoint) as channel:
        generate = inference_pb2_grpc.InferenceStub(channel).Generate
        message = inference_pb2.GenerateRequest(
            prompt=inference_pb2.Prompt(text=PROMPT), max_tokens=tokens_out
        )

        async def client() -> None:
            for _ in waiting:
                began_at = time.perf_counter()
                first_at, num_tokens = 0.0, 0
                async for response in generate(message, timeout=60):
                    first_at = first_at or time.perf_counter()
                    num_tokens += len(response.token_ids)
                    result.num_messages += 1
                    result.num_retries += response.timings.retries
                if num_tokens != tokens_out:
                    raise RuntimeError(f"got {num_tokens} tokens, expected {tokens_out}")
                result.latencies.append(time.perf_counter() - began_at)
                result.first_tokens.append(first_at - began_at)

        cpu_before, began_at = cpu_seconds(router), time.perf_counter()
        await asyncio.gather(*(client() for _ in range(concurrency)))
        result.requests_per_second = requests / (time.perf_counter() - began_at)
        result.cpu_ms_per_request = (cpu_seconds(router) - cpu_before) / requests * 1e3
    return result


def cpu_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=2_000)
    parser.add_argument("--concurrency", type=int, default=16)
    parser.add_argument("--tokens", type=int, nargs="+", default=sorted(BUDGET_MS))
    parser.add_argument("--dry", action="store_true", help="print rows without recording them")
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        model = write_toy_checkpoint(Path(folder) / "toy")
        with LocalCluster(model=model, prefill=1, decode=1, device="cpu") as cluster:
            router = psutil.Process(cluster.routers[0].pid)
            for tokens_out in (2, *arguments.tokens):
                is_warm_up = tokens_out == 2
                result = asyncio.run(
                    load(
                        cluster.endpoint,
                        router,
                        requests=WARM_UP_REQUESTS if is_warm_up else arguments.requests,
                        concurrency=arguments.concurrency,
                        tokens_out=tokens_out,
                    )
                )
                if is_warm_up:
                    continue
                rows.append(
                    {
                        "requests": arguments.requests,
                        "concurrency": arguments.concurrency,
                        "prompt_tokens": len(PROMPT),
                        "tokens_out": tokens_out,
                        "router_cpu_ms_per_request": round(result.cpu_ms_per_request, 3),
                        "budget_ms": BUDGET_MS.get(tokens_out, ""),
                        "messages_per_request": round(result.num_messages / arguments.requests, 1),
                        "retries": result.num_retries,
                        "requests_per_second": round(result.requests_per_second, 1),
                        "latency_p50_ms": percentile_ms(result.latencies, 50),
                        "latency_p99_ms": percentile_ms(result.latencies, 99),
                        "first_token_p50_ms": percentile_ms(result.first_tokens, 50),
                        "first_token_p99_ms": percentile_ms(result.first_tokens, 99),
                    }
                )
                print(rows[-1], flush=True)
    if not arguments.dry:
        append_rows("router_cpu", rows)


if __name__ == "__main__":
    main()

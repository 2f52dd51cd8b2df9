"""What pushing KV costs a prefill: 2,048 tokens computed with the push to a decode worker and
without, turn by turn, in the same two processes.

Budget: at most 10 % slower with the push (median).
"""

import argparse
import asyncio
import statistics
import tempfile
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path

from random_llama import random_llama
from rows import append_rows

from lengthwise_local import LocalCluster, Role
from lengthwise_runtime.channel import open_channel
from lengthwise_wire.v1 import (
    common_pb2,
    decode_pb2,
    decode_pb2_grpc,
    prefill_pb2,
    prefill_pb2_grpc,
)

PROMPT_TOKENS = 2_048
GREEDY = common_pb2.SamplingParams(temperature=0, repetition_penalty=1, top_p=1, seed=1)


async def measure(cluster: LocalCluster, repeats: int) -> tuple[list[float], list[float]]:
    """Seconds of prefill with and without the push, alternating."""
    router_id, worker = f"bench-{uuid.uuid4().hex[:8]}", cluster.decode[0]
    channels = [open_channel(p.address, None) for p in (cluster.prefill[0], worker)]
    prefill = prefill_pb2_grpc.PrefillWorkerStub(channels[0])
    decode = decode_pb2_grpc.DecodeWorkerStub(channels[1])
    tokens = decode.Tokens(decode_pb2.TokensRequest(router_id=router_id))
    await tokens.read()
    prompt = [(7 * i + i * i) % 2000 + 2 for i in range(PROMPT_TOKENS)]

    async def once(number: int, pushed: bool) -> float:
        request = prefill_pb2.PrefillRequest(
            request_id=f"request-{number}",
            epoch=1,
            token_ids=prompt,
            num_prompt_tokens=len(prompt),
            sampling=GREEDY,
        )
        if pushed:
            reserve = decode_pb2.ReserveRequest(
                request_id=request.request_id,
                router_id=router_id,
                reservation=number,
                epoch=1,
                token_ids=prompt,
                num_prompt_tokens=len(prompt),
                sampling=GREEDY,
                max_tokens=2,
                lease_seconds=60,
            )
            await decode.Reserve(reserve, timeout=30)
            request.destination.address = worker.address
            request.destination.worker_id = worker.worker_id
            request.destination.reservation = number
            request.destination.router_id = router_id
        response = await prefill.Prefill(request, timeout=60)
        while pushed and not any(e.reservation == number for e in (await tokens.read()).ended):
            continue
        return float(response.prefill_seconds)

    await once(1, True)
    await once(2, False)
    pushed, alone = [], []
    for turn in range(repeats):
        pushed.append(await once(2 * turn + 3, True))
        alone.append(await once(2 * turn + 4, False))
    tokens.cancel()
    for channel in channels:
        await channel.close(None)
    return pushed, alone


def row(name: str, pushed: Sequence[float], alone: Sequence[float]) -> dict[str, object]:
    ratio = statistics.median(pushed) / statistics.median(alone)
    return {
        "model": name,
        "prompt_tokens": PROMPT_TOKENS,
        "repeats": len(pushed),
        "pushed_median_seconds": f"{statistics.median(pushed):.4f}",
        "pushed_min_seconds": f"{min(pushed):.4f}",
        "pushed_max_seconds": f"{max(pushed):.4f}",
        "alone_median_seconds": f"{statistics.median(alone):.4f}",
        "alone_min_seconds": f"{min(alone):.4f}",
        "alone_max_seconds": f"{max(alone):.4f}",
        "ratio": f"{ratio:.3f}",
        "budget": "1.10",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=15)
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        models: list[tuple[str, Path | None]] = [
            ("demo model", None),
            ("random Llama 512x8", random_llama(Path(folder) / "512", hidden=512, layers=8)),
        ]
        for name, model in models:
            configs: Mapping[Role, Mapping[str, object]] = {
                "prefill": {"threads": 1, "prefix_caching": False},
                "decode": {"threads": 1, "prefix_caching": False},
            }
            with LocalCluster(model=model, device="cpu", configs=configs) as cluster:
                rows.append(row(name, *asyncio.run(measure(cluster, arguments.repeats))))
            print(f"{name}: {rows[-1]['ratio']} x with the push (budget 1.10)")
    append_rows("prefill_push", rows)


if __name__ == "__main__":
    main()

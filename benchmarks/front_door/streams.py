"""2,000 streams of server-sent events at once: how many are dropped, and the router's memory.

Once with room for all of them in the router, and once at the defaults, where the surplus is told to
come back: 429 with Retry-After.
"""

import argparse
import asyncio
import json
import resource
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field

import psutil
from rows import append_rows

from front_door.fronts import Front, ours

WORKERS = (
    "decode.num_blocks=32768",
    "prefill.num_blocks=32768",
    # One decode worker, on a core that it shares, has all of them: its first step takes over 5 s.
    "router.transfer_timeout_seconds=60",
)

ROOM = (*WORKERS, "router.max_requests_in_flight=2048")

SAMPLE_SECONDS = 0.1


@dataclass(slots=True)
class Outcome:
    """Of all streams."""

    statuses: Counter[int] = field(default_factory=Counter)
    num_whole: int = 0
    num_dropped: int = 0
    """Begun, and not ended as it should."""
    num_without_retry_after: int = 0
    ends: Counter[bytes] = field(default_factory=Counter)
    num_open: int = 0
    most_open: int = 0


async def stream(address: str, request: bytes, outcome: Outcome) -> None:
    """Reads to the end of the connection: a client that parsed every event would be the slower
    end, and be given up."""
    host, port = address.split(":")
    head = answer = b""
    try:
        reader, writer = await asyncio.open_connection(host, int(port))
        with closing(writer.transport):
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            is_stream = head.startswith(b"HTTP/1.1 200")
            outcome.num_open += is_stream
            outcome.most_open = max(outcome.most_open, outcome.num_open)
            while piece := await reader.read(1 << 16):
                answer = (answer + piece)[-1000:]
            outcome.num_open -= is_stream
    except (OSError, asyncio.IncompleteReadError) as error:
        answer = repr(error).encode()
    status = int(head.split()[1]) if head else 0
    outcome.statuses[status] += 1
    outcome.num_without_retry_after += status == 429 and b"retry-after:" not in head
    if status == 200:
        is_whole = b"data: [DONE]" in answer
        outcome.num_whole += is_whole
        outcome.num_dropped += not is_whole
        outcome.ends[b"[DONE]" if is_whole else answer[-300:]] += 1


def request_of(front: Front, tokens_out: int) -> bytes:
    fields = {"model": front.model, "prompt": front.prompt, "max_tokens": tokens_out}
    body = json.dumps({**fields, "stream": True}).encode()
    return (
        b"POST /v1/completions HTTP/1.1\r\nhost: router\r\nconnection: close\r\n"
        b"content-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body)
    ) + body


async def run(front: Front, *, count: int, tokens_out: int) -> tuple[Outcome, int]:
    """All at once; and the most memory that the router has had, in bytes."""
    outcome, process, most = Outcome(), psutil.Process(front.pid), 0

    async def sample() -> None:
        nonlocal most
        while True:
            most = max(most, process.memory_info().rss)
            await asyncio.sleep(SAMPLE_SECONDS)

    request, sampling = request_of(front, tokens_out), asyncio.create_task(sample())
    await asyncio.gather(*(stream(front.address, request, outcome) for _ in range(count)))
    sampling.cancel()
    return outcome, most


def measure(label: str, settings: Sequence[str], count: int, tokens_out: int) -> dict[str, object]:
    with ours(settings) as fronts:
        front = next(front for front in fronts if not front.is_grpc)
        asyncio.run(run(front, count=16, tokens_out=4))
        before, began_at = psutil.Process(front.pid).memory_info().rss, time.perf_counter()
        outcome, most = asyncio.run(run(front, count=count, tokens_out=tokens_out))
        print(outcome.statuses, outcome.ends.most_common(5), flush=True)
        return {
            "limits": label,
            "streams": count,
            "tokens_out": tokens_out,
            "whole": outcome.num_whole,
            "dropped": outcome.num_dropped,
            "refused_429": outcome.statuses[429],
            "refused_otherwise": sum(outcome.statuses.values())
            - outcome.statuses[200]
            - outcome.statuses[429],
            "without_retry_after": outcome.num_without_retry_after,
            "most_open": outcome.most_open,
            "seconds": round(time.perf_counter() - began_at, 1),
            "router_mib_before": before >> 20,
            "router_mib_most": most >> 20,
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--streams", type=int, default=2_000)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--dry", action="store_true", help="print rows without recording them")
    arguments = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    rows = []
    for label, settings in (("2048 in flight", ROOM), ("defaults", WORKERS)):
        rows.append(measure(label, settings, arguments.streams, arguments.tokens))
        print(rows[-1], flush=True)
    if not arguments.dry:
        append_rows("streams", rows)


if __name__ == "__main__":
    main()

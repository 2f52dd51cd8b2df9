"""What a client pod runs: a steady load of streamed requests, told of line by line.

Its lines are JSON. While it runs: one per answer, {"began": Unix time, "first": seconds, "total":
seconds, "gap": the longest silence between two chunks, "retries": n, "error": ""}. SIGTERM ends it
once what runs has been answered; the last line is {"done": number of answers}.
"""

import asyncio
import itertools
import json
import signal
import sys
import time

from lengthwise.aio import AsyncClient
from lengthwise.errors import LengthwiseError

REQUEST_SECONDS = 60.0

PROMPT = "def read_lines(path):\n    "


async def ask(client: AsyncClient, number: int, max_tokens: int) -> dict[str, object]:
    began = time.time()
    marks = [began]
    retries, tokens, error = 0, 0, ""
    try:
        options = {"max_tokens": max_tokens, "ignore_eos": True, "timeout": REQUEST_SECONDS}
        async for chunk in client.stream(f"# {number}\n{PROMPT}", **options):  # type: ignore[arg-type]
            marks.append(time.time())
            tokens += len(chunk.tokens)
            if chunk.timings is not None:
                retries = chunk.timings.retries
        if tokens != max_tokens:
            error = f"got {tokens} tokens, expected {max_tokens}"
    except LengthwiseError as failure:
        error = f"{type(failure).__name__}: {failure}"
    return {
        "began": began,
        "first": round(marks[1] - began, 3) if len(marks) > 1 else None,
        "total": round(time.time() - began, 3),
        "gap": round(max((b - a for a, b in itertools.pairwise(marks)), default=0.0), 3),
        "retries": retries,
        "error": error,
    }


async def main(endpoint: str, streams: int, max_tokens: int) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    answers = 0
    async with AsyncClient(endpoint) as client:

        async def caller(first: int) -> None:
            nonlocal answers
            number = first
            while not stop.is_set():
                print(json.dumps(await ask(client, number, max_tokens)), flush=True)
                answers += 1
                number += streams

        await asyncio.gather(*(caller(index) for index in range(streams)))
    print(json.dumps({"done": answers}), flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))

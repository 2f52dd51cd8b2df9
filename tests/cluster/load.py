"""What a client pod runs: a steady load of streamed, greedy requests, reported line by line.

Its lines are JSON. While it runs: one per answer, {"stream": number of the caller, "began": Unix
time, "first": seconds, "total": seconds, "gap": the longest silence between two chunks, "retries":
n, "error": "", "prompt": text, "token_ids": those that came}. SIGTERM ends it once what runs has
been answered; the last line is {"done": number of answers}.
"""

import asyncio
import itertools
import json
import signal
import sys
import time

from lengthwise.aio import AsyncClient
from lengthwise_wire.errors import LengthwiseError

REQUEST_SECONDS = 60.0

PROMPT = "def read_lines(path):\n    "


def prompt_of(stream: int, number: int, lines: int) -> str:
    """No two begin alike, so that no cache knows them."""
    head = f"# {stream}.{number}\n"
    return head + "".join(f"value_{line} = {line * number}\n" for line in range(lines)) + PROMPT


async def ask(client: AsyncClient, stream: int, prompt: str, max_tokens: int) -> dict[str, object]:
    began = time.time()
    marks = [began]
    retries, error = 0, ""
    token_ids: list[int] = []
    try:
        async for chunk in client.stream(
            prompt,
            max_tokens=max_tokens,
            temperature=0,
            ignore_eos=True,
            timeout=REQUEST_SECONDS,
        ):
            marks.append(time.time())
            token_ids += chunk.token_ids
            if chunk.timings is not None:
                retries = chunk.timings.retries
        if len(token_ids) != max_tokens:
            error = f"got {len(token_ids)} tokens, expected {max_tokens}"
    except LengthwiseError as failure:
        error = f"{type(failure).__name__}: {failure}"
    return {
        "stream": stream,
        "began": began,
        "first": round(marks[1] - began, 3) if len(marks) > 1 else None,
        "total": round(time.time() - began, 3),
        "gap": round(max((b - a for a, b in itertools.pairwise(marks)), default=0.0), 3),
        "retries": retries,
        "error": error,
        "prompt": prompt,
        "token_ids": token_ids,
    }


async def main(
    endpoint: str, streams: int, max_tokens: int, prompt_lines: int, pause_seconds: float
) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    answers = 0
    async with AsyncClient(endpoint) as client:

        async def caller(stream: int) -> None:
            nonlocal answers
            for number in itertools.count():
                prompt = prompt_of(stream, number, prompt_lines)
                answer = await ask(client, stream, prompt, max_tokens)
                print(json.dumps(answer), flush=True)
                answers += 1
                if stop.is_set():
                    return
                await asyncio.sleep(pause_seconds)

        await asyncio.gather(*(caller(stream) for stream in range(streams)))
    print(json.dumps({"done": answers}), flush=True)


if __name__ == "__main__":
    streams, max_tokens, prompt_lines = map(int, sys.argv[2:5])
    asyncio.run(main(sys.argv[1], streams, max_tokens, prompt_lines, float(sys.argv[5])))

"""A file of prompts, one a line, to a file of answers, one JSON object a line, in the same order.

python examples/batch.py prompts.txt answers.jsonl
"""

import asyncio
import json
import os
import sys
from asyncio import Task
from collections import deque
from pathlib import Path

import lengthwise

ENDPOINT = os.environ.get("LENGTHWISE_ENDPOINT", "localhost:50051")
AT_ONCE = 32


async def answer(client: lengthwise.AsyncClient, prompt: str) -> str:
    """A line of JSON. A prompt that the model cannot take stops no batch."""
    try:
        # The lowest priority: users who wait come first.
        completion = await client.generate(prompt, max_tokens=32, temperature=0, priority=-100)
        found = {"text": completion.text, "tokens": completion.usage.output_tokens}
    except lengthwise.InvalidRequest as error:
        found = {"error": str(error)}
    return json.dumps({"prompt": prompt, **found}, ensure_ascii=False) + "\n"


async def main(prompts: Path, answers: Path) -> None:
    tasks: deque[Task[str]] = deque()
    with prompts.open(encoding="utf-8") as lines, answers.open("w", encoding="utf-8") as out:
        async with lengthwise.AsyncClient(ENDPOINT) as client, asyncio.TaskGroup() as group:
            for line in lines:
                if len(tasks) == AT_ONCE:
                    out.write(await tasks.popleft())
                tasks.append(group.create_task(answer(client, line.rstrip("\n"))))
            while tasks:
                out.write(await tasks.popleft())


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    asyncio.run(main(*map(Path, sys.argv[1:])))

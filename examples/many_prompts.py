"""Many prompts at once over one connection: as many as the server takes, and no more.

python examples/many_prompts.py
"""

import asyncio
import os

import lengthwise

ENDPOINT = os.environ.get("LENGTHWISE_ENDPOINT", "localhost:50051")
AT_ONCE = 32
"""A router admits more than it computes and queues the rest; what exceeds its queue it refuses with
`Overloaded`, which the client tries again."""


async def main() -> None:
    prompts = [f"def times_{number}(value):\n    return" for number in range(100)]
    places = asyncio.Semaphore(AT_ONCE)

    async def complete(client: lengthwise.AsyncClient, prompt: str) -> str:
        async with places:
            completion = await client.generate(prompt, max_tokens=8, temperature=0, stop="\n")
            return prompt + completion.text

    async with lengthwise.AsyncClient(ENDPOINT) as client, asyncio.TaskGroup() as group:
        tasks = [group.create_task(complete(client, prompt)) for prompt in prompts]
    for task in tasks:
        print(task.result())


if __name__ == "__main__":
    asyncio.run(main())

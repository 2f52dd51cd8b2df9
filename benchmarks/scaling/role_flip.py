"""How long a worker is away while it changes its role: from the call to its first status in the
other one. Beside it the alternative: the process is stopped and a new one started, until it is
ready.

A random Llama (hidden 512, 6 layers), a router that gives every worker its turn, one prefill, one
decode and one flexible worker; idle, and under a closed loop of eight callers with outputs of up to
40 tokens: what a decode worker runs is finished before it changes.
"""

import asyncio
import statistics
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from random_llama import random_llama
from rows import append_rows

import lengthwise
from lengthwise_local import LocalCluster, Process
from lengthwise_policy.types import Role
from scaling.flexible import flexible_worker, flip, status_of

REPEATS, STARTS = 6, 2
WORK_SECONDS = 30.0
CALLERS = 8
HIDDEN, LAYERS = 512, 6


@asynccontextmanager
async def load(cluster: LocalCluster, callers: int) -> AsyncIterator[None]:
    """Callers, each with its next request when the last is answered."""
    stop = asyncio.Event()

    async def call(client: lengthwise.AsyncClient, number: int) -> None:
        count = 0
        while not stop.is_set():
            count += 1
            prompt = [(7 * i + 13 * number + 31 * count) % 2000 + 2 for i in range(50)]
            await client.generate(prompt, max_tokens=1 + 13 * count % 40, ignore_eos=True)

    async with lengthwise.AsyncClient(cluster.endpoints) as client, asyncio.TaskGroup() as group:
        for number in range(callers):
            group.create_task(call(client, number))
        await asyncio.sleep(1.0 if callers else 0.0)
        yield
        stop.set()


async def wait_for_work(worker: Process) -> None:
    """A prefill worker hardly ever runs anything when it is asked; it has work once it steps."""
    async with asyncio.timeout(WORK_SECONDS):
        while True:
            status = await status_of(worker.address)
            if status.running_requests > 1 or status.prompt_tokens_total > 0:
                return
            await asyncio.sleep(0.01)


def started_anew(worker: Process) -> float:
    """Seconds of the alternative; a start takes as long in either role."""
    began_at = time.monotonic()
    worker.drain()
    worker.wait(60)
    worker.start()
    worker.wait_ready(120)
    return time.monotonic() - began_at


async def measure(cluster: LocalCluster, worker: Process, callers: int) -> list[dict[str, object]]:
    whats = ("flip to prefill", "flip to decode", "stop and start")
    seconds: dict[str, list[float]] = {what: [] for what in whats}
    roles: tuple[Role, ...] = ("prefill", "decode")
    async with load(cluster, callers):
        for _ in range(REPEATS):
            for role in roles:
                if callers:
                    await wait_for_work(worker)
                seconds[f"flip to {role}"].append(await flip(worker.address, role, 60))
        for _ in range(STARTS):
            if callers:
                await wait_for_work(worker)
            seconds["stop and start"].append(await asyncio.to_thread(started_anew, worker))
    return [
        {
            "what": what,
            "callers": callers,
            "repeats": len(taken),
            "median_seconds": f"{statistics.median(taken):.2f}",
            "max_seconds": f"{max(taken):.2f}",
        }
        for what, taken in seconds.items()
    ]


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        model = random_llama(Path(folder), hidden=HIDDEN, layers=LAYERS)
        config: dict[str, object] = {"threads": 1, "num_blocks": 2048}
        router: dict[str, object] = {"strategy": "round_robin"}
        with LocalCluster(
            model=model, configs={"prefill": config, "decode": config, "router": router}
        ) as cluster:
            worker = flexible_worker(cluster, model, "decode", num_blocks=2048)
            worker.start()
            worker.wait_ready(120)
            rows = [
                row
                for callers in (0, CALLERS)
                for row in asyncio.run(measure(cluster, worker, callers))
            ]
            worker.drain()
            worker.wait(60)
    for row in rows:
        print(*row.values())
    append_rows("role_flip", rows)


if __name__ == "__main__":
    main()

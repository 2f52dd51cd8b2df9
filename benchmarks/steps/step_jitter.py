"""How long a launched step takes while the event loop serves streams: both want the interpreter.

A fake runner's step is 300 calls that release the interpreter's lock for some microseconds, as the
launches of a step without a graph do. After each step 128 tokens are published, to one router or to
128, over the workers' own publisher; or the event loop is never idle and lets go only when it has
to. How soon the engine thread gets the lock back is for `sys.setswitchinterval` to say.

Budget: beside a busy event loop, at the workers' interval, p99 at most half of that at Python's.
"""

import argparse
import asyncio
import hashlib
import os
import statistics
import sys
import threading
import time

from rows import append_rows

from lengthwise_decode_worker.publisher import Publisher
from lengthwise_decode_worker.stepping.rows import RouterRows
from lengthwise_runtime.step_thread import SWITCH_SECONDS

CALLS = 300
RELEASED = bytes(16_384)
"""Hashing more than 2,047 bytes releases the lock; these take about as long as a launch."""
HELD_NUMBERS = 100_000
"""Adding them up keeps the lock for about 2 ms, as a large message or a collection does."""
TOKENS = 128
STEPS = 20
WARM_UP_STEPS = 2
PYTHONS_SECONDS = 0.005
LOADS = {"none": 0, "one router": 1, "128 routers": 128, "busy": -1}


def _step() -> None:
    for _ in range(CALLS):
        hashlib.sha256(RELEASED)


def _publish(publisher: Publisher, routers: int, index: int) -> None:
    each = TOKENS // routers
    for router in range(routers):
        rows = RouterRows(
            reservations=list(range(each)), indices=[index] * each, token_ids=[1234] * each
        )
        publisher.publish(f"router-{router}", rows)


async def _read(publisher: Publisher, router: int) -> None:
    async for batch in publisher.stream(f"router-{router}"):
        batch.SerializeToString()


async def _never_idle() -> None:
    while True:
        sum(range(HELD_NUMBERS))
        await asyncio.sleep(0)


async def _measure(load: int) -> list[float]:
    """Milliseconds of each step."""
    loop, ended, publisher = asyncio.get_running_loop(), asyncio.Event(), Publisher()
    taken: list[float] = []

    def run() -> None:
        for index in range(WARM_UP_STEPS + STEPS):
            began_at = time.perf_counter()
            _step()
            taken.append((time.perf_counter() - began_at) * 1e3)
            if load > 0:
                loop.call_soon_threadsafe(_publish, publisher, load, index)
        loop.call_soon_threadsafe(ended.set)

    served = [asyncio.create_task(_read(publisher, router)) for router in range(load)]
    if load < 0:
        served.append(asyncio.create_task(_never_idle()))
    await asyncio.sleep(0.1)
    engine = threading.Thread(target=run)
    engine.start()
    await ended.wait()
    engine.join()
    for task in served:
        task.cancel()
    await asyncio.gather(*served, return_exceptions=True)
    return taken[WARM_UP_STEPS:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    cases = [(name, each) for name in LOADS for each in (PYTHONS_SECONDS, SWITCH_SECONDS)]
    taken: dict[tuple[str, float], list[float]] = {case: [] for case in cases}
    for _ in range(repeats):
        for name, seconds in cases:
            sys.setswitchinterval(seconds)
            taken[name, seconds] += asyncio.run(_measure(LOADS[name]))
    rows = [
        {
            "event_loop": name,
            "switch_milliseconds": seconds * 1e3,
            "calls": CALLS,
            "steps": len(each),
            "p50_milliseconds": f"{statistics.median(each):.2f}",
            "p99_milliseconds": f"{statistics.quantiles(each, n=100)[98]:.2f}",
            "max_milliseconds": f"{max(each):.2f}",
            "load_average": f"{os.getloadavg()[0]:.1f}",
        }
        for (name, seconds), each in taken.items()
    ]
    for row in rows:
        print(*row.values())
    append_rows("step_jitter", rows)


if __name__ == "__main__":
    main()

"""Waiting, within a deadline, for what sets no event."""

import asyncio
import time
from collections.abc import Callable

POLL_SECONDS = 0.02


async def wait_until(condition: Callable[[], bool], timeout_seconds: float) -> bool:
    """Waits for a condition, or for the time-out: whether it holds. For drains."""
    deadline = time.monotonic() + timeout_seconds
    while not (holds := condition()) and time.monotonic() < deadline:  # noqa: ASYNC110
        await asyncio.sleep(POLL_SECONDS)
    return holds

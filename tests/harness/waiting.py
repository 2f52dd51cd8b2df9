"""Waiting for conditions, never for a time that should suffice."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

POLL_SECONDS = 0.01


async def eventually(condition: Callable[[], Any], seconds: float = 20.0) -> None:
    """Fails unless the condition (a function or coroutine function) turns true in time."""
    deadline = time.monotonic() + seconds
    while True:
        result = condition()
        if asyncio.iscoroutine(result):
            result = await result
        if result:
            return
        assert time.monotonic() < deadline, f"not within {seconds} s"
        await asyncio.sleep(POLL_SECONDS)


def until(condition: Callable[[], Any], seconds: float = 20.0) -> None:
    """As `eventually`, of tests without an event loop."""
    wait_for("true", condition, seconds, POLL_SECONDS)


def wait_for(
    what: str, condition: Callable[[], Any], seconds: float, poll_seconds: float = 0.1
) -> float:
    """How many seconds the condition took to turn true. Errors: AssertionError naming `what`."""
    began_at = time.monotonic()
    while not condition():
        assert time.monotonic() - began_at < seconds, f"not within {seconds:g} s: {what}"
        time.sleep(poll_seconds)
    return time.monotonic() - began_at

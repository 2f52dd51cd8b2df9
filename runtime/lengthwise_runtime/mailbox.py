"""Between the event loop and the engine thread: commands, drained once per step, and back."""

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

from lengthwise_wire.errors import Overloaded

T = TypeVar("T")


class Mailbox(Generic[T]):
    """A bounded many-producers, one-consumer queue. Posting never blocks."""

    def __init__(self, limit: int) -> None:
        self._items: deque[T] = deque()
        self._limit = limit
        self._changed = threading.Condition()

    def post(self, item: T) -> None:
        """Errors: Overloaded when `limit` commands already wait: the engine is stuck or swamped."""
        with self._changed:
            if len(self._items) >= self._limit:
                raise Overloaded(
                    f"the engine's mailbox is full: {self._limit} commands wait; try another worker"
                )
            self._items.append(item)
            self._changed.notify()

    def waiting(self) -> list[T]:
        """All waiting commands, which go on waiting."""
        with self._changed:
            return list(self._items)

    def drain(self, timeout_seconds: float) -> list[T]:
        """All waiting commands, in order; waits up to `timeout_seconds` for a first one."""
        with self._changed:
            if not self._items and timeout_seconds > 0:
                self._changed.wait(timeout_seconds)
            items = list(self._items)
            self._items.clear()
            return items


def on_event_loop(callback: Callable[[T], None]) -> Callable[[T], None]:
    """`callback` for other threads: it is called on the event loop that runs now."""
    loop = asyncio.get_running_loop()

    def call(value: T) -> None:
        loop.call_soon_threadsafe(callback, value)

    return call

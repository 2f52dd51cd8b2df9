"""What a worker reports to its watchers about reusable blocks: to each what changed since its last
status.

The log is bounded: it keeps the last change of the `max_entries` contents that changed last. A
watcher that is new, or missed more than that, receives everything held, in messages of that many
hashes at most, and then what changed since.

Invariant: a watcher that applies all messages in order ends with the worker's own set.
"""

from collections import OrderedDict
from dataclasses import dataclass

from lengthwise_policy.kv.prefix_cache import BlockEvents
from lengthwise_wire.v1 import worker_pb2

DEFAULT_MAX_ENTRIES = 65_536
"""512 KiB in a message, of the 5 MiB that a channel takes; a million blocks take 16."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cursor:
    """What one watcher has received: all up to `version`, except what is still `unsent`."""

    version: int
    unsent: tuple[int, ...] = ()


class BlockLog:
    """Lives on the event loop: one writer, any number of watchers with a cursor each."""

    def __init__(self, max_entries: int = DEFAULT_MAX_ENTRIES) -> None:
        if max_entries < 1:
            raise ValueError(f"max_entries: expected at least 1, got {max_entries}")
        self._max_entries = max_entries
        self._version = 0
        self._lost_version = 0  # changes up to this one may be missing below
        self._held: set[int] = set()
        self._changed: OrderedDict[int, int] = OrderedDict()  # content -> version of last change

    def append(self, events: BlockEvents) -> None:
        """Takes over what `PrefixCache.take_events` gave."""
        self._version += 1
        self._held.difference_update(events.removed)
        self._held.update(events.added)
        for content in (*events.removed, *events.added):
            self._changed[content] = self._version
            self._changed.move_to_end(content)
            if len(self._changed) > self._max_entries:
                _, self._lost_version = self._changed.popitem(last=False)

    def since(self, cursor: Cursor | None) -> tuple[worker_pb2.BlockEvents | None, Cursor]:
        """The next message for a watcher, None when it has all, and its new cursor."""
        if cursor is None or cursor.version < self._lost_version:
            return self._part(Cursor(version=self._version, unsent=tuple(self._held)), reset=True)
        if cursor.unsent:
            return self._part(cursor, reset=False)
        if cursor.version == self._version:
            return None, cursor
        added: list[int] = []
        removed: list[int] = []
        for content, version in reversed(self._changed.items()):
            if version <= cursor.version:
                break
            (added if content in self._held else removed).append(content)
        events = worker_pb2.BlockEvents(added=added, removed=removed)
        return events, Cursor(version=self._version)

    def _part(self, cursor: Cursor, *, reset: bool) -> tuple[worker_pb2.BlockEvents, Cursor]:
        events = worker_pb2.BlockEvents(reset=reset, added=cursor.unsent[: self._max_entries])
        rest = cursor.unsent[self._max_entries :]
        return events, Cursor(version=cursor.version, unsent=rest)

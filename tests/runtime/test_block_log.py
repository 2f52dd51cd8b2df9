"""A watcher of a worker's blocks, from whenever and however slowly, ends with its set."""

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lengthwise_policy.kv.prefix_cache import BlockEvents
from lengthwise_runtime.block_log import BlockLog, Cursor
from lengthwise_wire.v1 import worker_pb2

MAX_ENTRIES = 4


@dataclass
class Watcher:
    """Applies what it receives as a router does."""

    cursor: Cursor | None = None
    held: set[int] = field(default_factory=set)
    resets: int = 0

    def hear(self, log: BlockLog) -> worker_pb2.BlockEvents | None:
        events, self.cursor = log.since(self.cursor)
        if events is not None:
            assert not set(events.added) & set(events.removed)
            self.resets += events.reset
            before = set() if events.reset else self.held
            self.held = before - set(events.removed) | set(events.added)
        return events


def hear_all(watcher: Watcher, log: BlockLog) -> int:
    """Listens until nothing is left to say; returns the number of messages."""
    for heard in range(100):
        if watcher.hear(log) is None:
            return heard
    raise AssertionError("the log never falls silent")


CONTENTS = st.integers(0, 12)
CHANGES = st.tuples(st.sets(CONTENTS, max_size=6), st.sets(CONTENTS, max_size=2))


@given(steps=st.lists(st.one_of(CHANGES, st.integers(0, 2)), max_size=40))
def test_every_watcher_ends_with_the_workers_set(
    steps: list[tuple[set[int], set[int]] | int],
) -> None:
    """Changes of the set and single messages to one of three watchers, in any order."""
    log = BlockLog(MAX_ENTRIES)
    watchers = [Watcher(), Watcher(), Watcher()]
    held: set[int] = set()
    for step in steps:
        if isinstance(step, int):
            events = watchers[step].hear(log)
            if events is not None:
                assert len(events.added) + len(events.removed) <= MAX_ENTRIES
            continue
        added, removed = step[0] - held, (step[1] - step[0]) & held
        held = held - removed | added
        log.append(BlockEvents(added=tuple(added), removed=tuple(removed)))
    for watcher in watchers:
        hear_all(watcher, log)
        assert watcher.held == held


def test_a_watcher_that_is_new_hears_of_everything_in_parts_and_then_of_changes() -> None:
    log = BlockLog(MAX_ENTRIES)
    log.append(BlockEvents(added=tuple(range(10)), removed=()))
    watcher = Watcher()
    parts = [watcher.hear(log) for _ in range(2)]
    log.append(BlockEvents(added=(10,), removed=(0,)))
    parts += [watcher.hear(log) for _ in range(2)]
    assert [(part.reset, len(part.added), list(part.removed)) for part in parts if part] == [
        (True, 4, []),
        (False, 4, []),
        (False, 2, []),
        (False, 1, [0]),
    ]
    assert watcher.hear(log) is None
    assert watcher.held == set(range(1, 11))


def test_a_watcher_of_a_worker_without_blocks_is_notified_of_that() -> None:
    events, cursor = BlockLog().since(None)
    assert events == worker_pb2.BlockEvents(reset=True)
    assert BlockLog().since(cursor) == (None, cursor)


@pytest.mark.parametrize(
    ("changes", "resets"),
    [pytest.param(MAX_ENTRIES, 0, id="just within"), pytest.param(MAX_ENTRIES + 1, 1, id="beyond")],
)
def test_a_watcher_that_missed_more_than_the_log_keeps_starts_again(
    changes: int, resets: int
) -> None:
    log = BlockLog(MAX_ENTRIES)
    watcher = Watcher()
    hear_all(watcher, log)
    watcher.resets = 0
    for content in range(changes):
        log.append(BlockEvents(added=(content,), removed=()))
    hear_all(watcher, log)
    assert (watcher.held, watcher.resets) == (set(range(changes)), resets)


def test_a_content_that_comes_and_goes_takes_one_entry() -> None:
    log = BlockLog(MAX_ENTRIES)
    watcher = Watcher()
    hear_all(watcher, log)
    for _ in range(10 * MAX_ENTRIES):
        log.append(BlockEvents(added=(7,), removed=()))
        log.append(BlockEvents(added=(), removed=(7,)))
    assert watcher.hear(log) == worker_pb2.BlockEvents(removed=[7])


def test_a_content_that_changes_again_is_reported_again() -> None:
    log = BlockLog(MAX_ENTRIES)
    log.append(BlockEvents(added=(1, 2), removed=()))
    watcher = Watcher()
    hear_all(watcher, log)
    log.append(BlockEvents(added=(), removed=(1,)))
    assert watcher.hear(log) == worker_pb2.BlockEvents(removed=[1])


def test_a_log_without_room_is_refused() -> None:
    with pytest.raises(ValueError, match="max_entries: expected at least 1, got 0"):
        BlockLog(0)

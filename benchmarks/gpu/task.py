"""What `make gpu-check` is made of: parts of named tasks that yield rows until their time is over.

A task's name is known before it runs, so that one that did not run can be named; a row
is kept the moment it is measured; a task that fails takes no other one with it.
"""

import json
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Row = Mapping[str, Any]


class LeftOut(Exception):
    """Raised by a task whose time is over; says what is missing."""


class DeviceLost(Exception):
    """After a failure that leaves a process without its GPU; another process may go on."""


@dataclass(frozen=True, slots=True)
class Deadline:
    """An instant of the monotonic clock."""

    at: float

    @classmethod
    def after(cls, seconds: float) -> "Deadline":
        return cls(time.monotonic() + seconds)

    @property
    def left(self) -> float:
        """Seconds; negative when it has passed."""
        return self.at - time.monotonic()


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """Measurements that stand and fall together; their rows go to `benchmarks/data/<table>.csv`.

    `run` yields rows and may raise anything; `LeftOut` when the deadline passes under way.
    """

    name: str
    table: str
    run: Callable[[Deadline], Iterator[Row]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a task ended: "done", "failed" or "left out", and why."""

    task: str
    state: str
    why: str = ""


class Journal:
    """Rows and outcomes in a file of JSON lines, which another process reads, whatever became of
    the one that wrote them."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def row(self, table: str, row: Row) -> None:
        self._write({"table": table, "row": dict(row)})

    def outcome(self, outcome: Outcome) -> None:
        self._write({"task": outcome.task, "state": outcome.state, "why": outcome.why})

    def rows(self) -> Iterator[tuple[str, Row]]:
        for entry in self._entries():
            if "table" in entry:
                yield entry["table"], entry["row"]

    def outcomes(self) -> dict[str, Outcome]:
        """The last of each task, by its name."""
        return {entry["task"]: Outcome(**entry) for entry in self._entries() if "task" in entry}

    def _write(self, entry: Mapping[str, Any]) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")

    def _entries(self) -> Iterator[dict[str, Any]]:
        if self.path.exists():
            for line in self.path.read_text(encoding="utf-8").splitlines():
                # A process that was killed may have left half a line.
                if line.endswith("}"):
                    yield json.loads(line)


def run_tasks(
    tasks: Sequence[Task],
    deadline: Deadline,
    journal: Journal,
    device_works: Callable[[], bool],
) -> None:
    """Runs tasks that have no outcome yet; each of them has one afterwards.

    Raises DeviceLost when a failure took the device along: the rest needs another process.
    """
    ended = journal.outcomes()
    for task in tasks:
        if task.name in ended:
            continue
        if deadline.left <= 0:
            journal.outcome(Outcome(task=task.name, state="left out", why="no time was left"))
            continue
        try:
            for row in task.run(deadline):
                journal.row(task.table, row)
        except LeftOut as error:
            journal.outcome(Outcome(task=task.name, state="left out", why=str(error)))
        except Exception as error:
            traceback.print_exc()
            why = f"{type(error).__name__}: {error}".splitlines()[0]
            journal.outcome(Outcome(task=task.name, state="failed", why=why))
            if not device_works():
                raise DeviceLost(why) from error
        else:
            journal.outcome(Outcome(task=task.name, state="done"))

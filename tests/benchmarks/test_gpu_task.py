"""Parts of `make gpu-check`: what fails, hangs or dies takes nothing else with it."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from gpu.supervisor import supervise
from gpu.task import Deadline, Journal, LeftOut, Outcome, Row, Task, run_tasks


def task(name: str, *rows: Row, error: Exception | None = None) -> Task:
    def run(deadline: Deadline) -> Iterator[Row]:
        yield from rows
        if error is not None:
            raise error

    return Task(name=name, table="numbers", run=run)


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path / "journal.jsonl")


def test_a_failing_task_keeps_its_rows_and_the_others_run(journal: Journal) -> None:
    tasks = [
        task("first", {"n": 1}, error=ValueError("wrong numbers")),
        task("second", {"n": 2}, error=LeftOut("3 of 5 repeats")),
        task("third", {"n": 3}),
    ]
    run_tasks(tasks, Deadline.after(10), journal, device_works=lambda: True)
    assert list(journal.rows()) == [("numbers", {"n": n}) for n in (1, 2, 3)]
    assert journal.outcomes() == {
        "first": Outcome(task="first", state="failed", why="ValueError: wrong numbers"),
        "second": Outcome(task="second", state="left out", why="3 of 5 repeats"),
        "third": Outcome(task="third", state="done"),
    }


CHILD = """
import os, signal, sys, time
from pathlib import Path
from gpu.task import Deadline, DeviceLost, Journal, Task, run_tasks

def lose():
    raise RuntimeError("lost")

DEEDS = {
    "works": lambda: None,
    "dies": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "loses the device": lose,
    "works too": lambda: None,
    "hangs": lambda: time.sleep(60),
    "is late": lambda: None,
}

def task(name):
    def run(deadline):
        yield {"task": name}
        DEEDS[name]()
    return Task(name=name, table="deeds", run=run)

_, journal, names, seconds = sys.argv
tasks = [task(name) for name in names.split(",")]
try:
    run_tasks(tasks, Deadline.after(float(seconds)), Journal(Path(journal)), lambda: False)
except DeviceLost:
    sys.exit(3)
"""


def supervised(names: list[str], seconds: float, journal: Journal) -> dict[str, Outcome]:
    """The outcomes of tasks of these names, run by processes that do as CHILD says."""
    supervise(
        [sys.executable, "-c", CHILD, str(journal.path), ",".join(names)],
        names,
        Deadline.after(seconds),
        journal,
        {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        grace_seconds=0.1,
    )
    return journal.outcomes()


def test_a_task_that_takes_its_process_along_is_the_only_one_lost(journal: Journal) -> None:
    names = ["works", "dies", "loses the device", "works too"]
    outcomes = supervised(names, 30, journal)
    assert [outcomes[name].state for name in names] == ["done", "failed", "failed", "done"]
    assert outcomes["dies"].why == "its process ended with SIGKILL"
    assert outcomes["loses the device"].why == "RuntimeError: lost"
    assert [row["task"] for _, row in journal.rows()] == names


@pytest.mark.slow
def test_a_task_that_hangs_is_killed_when_the_time_is_over(journal: Journal) -> None:
    outcomes = supervised(["hangs", "is late"], 0.5, journal)
    assert [outcome.state for outcome in outcomes.values()] == ["failed", "left out"]
    assert "SIGKILL" in outcomes["hangs"].why

"""Runs a part of `make gpu-check` in processes of its own, so that nothing it does harms another.

A kernel that reads a wrong address takes the process' CUDA context with it; the tasks that are left
run in the next process. The rule: every task ends with an outcome, by its process or from here, and
each turn of the loop adds at least one.
"""

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from typing import Final

from gpu.task import Deadline, Journal, Outcome

DEVICE_LOST: Final = 3
"""Exit code of a process that has said which task failed and cannot go on."""

GRACE_SECONDS: Final = 30.0
"""A task looks at its deadline between measurements, of which some take ten seconds."""


def supervise(
    command: Sequence[str],
    tasks: Sequence[str],
    deadline: Deadline,
    journal: Journal,
    environment: Mapping[str, str],
    grace_seconds: float = GRACE_SECONDS,
) -> None:
    """Runs `command` with the seconds left appended until every one of `tasks` has an outcome."""
    while pending := [task for task in tasks if task not in journal.outcomes()]:
        if deadline.left <= 0:
            for task in pending:
                journal.outcome(Outcome(task=task, state="left out", why="no time was left"))
            return
        full_command = [*command, f"{deadline.left:.1f}"]
        ended_by = _run(full_command, deadline.left + grace_seconds, environment)
        ended = journal.outcomes()
        if ended_by == f"exit code {DEVICE_LOST}" and any(task in ended for task in pending):
            continue
        unsaid = [task for task in pending if task not in ended]
        if unsaid:
            why = f"its process ended with {ended_by}"
            journal.outcome(Outcome(task=unsaid[0], state="failed", why=why))


def _run(command: Sequence[str], seconds: float, environment: Mapping[str, str]) -> str:
    """Runs a command and whatever it starts; says how it ended."""
    process = subprocess.Popen(command, start_new_session=True, env=environment)
    try:
        code = process.wait(seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return "SIGKILL: it did not end when its time was over"
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise
    return f"exit code {code}" if code >= 0 else signal.Signals(-code).name

"""The standing command for a machine with an NVIDIA GPU: is everything right, and how fast is it?

    python -m gpu.check [PART ...] [--seconds 480] [--out FOLDER] [--commit NAME]
    python -m gpu.check --rehearse      # the same on the CPU, tiny

Parts run in the order of PARTS, each in a process of its own and within its share of the time; what
one does not need the next ones get. Rows go to benchmarks/data/gpu_*.csv (or FOLDER) as far as a
part came, then a table says what was asked for and what was reached. docs/gpu.md tells how to read
both.

Exit code: 0, also where an aim was missed or time ran out; 1 if something failed; 2 without a GPU.
"""

import argparse
import os
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from laps.sweep import laps_tasks
from random_models.models import SHAPES
from rows import DATA, append_rows

from gpu.against_transformers import rival_tasks
from gpu.aims import ENGINE, summary
from gpu.device_tests import pytest_tasks
from gpu.engine import engine_tasks
from gpu.kernels import agreement_tasks, kernel_tasks
from gpu.peer import peer_rows
from gpu.questions import TABLE, lines, question_tasks
from gpu.scale import FULL, TINY, Scale
from gpu.supervisor import DEVICE_LOST, supervise
from gpu.task import Deadline, DeviceLost, Journal, Row, Task, run_tasks

SECONDS: Final = 480.0
NO_GPU: Final = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Its share of the time is `weight` over the sum of the weights of the parts that were asked
    for; without a choice weights are seconds."""

    weight: float
    tasks: Callable[[Scale], list[Task]]


PARTS: Final[Mapping[str, Part]] = {
    # First, and small: what nobody could know before, and whether a kernel is broken.
    "questions": Part(weight=90, tasks=question_tasks),
    "agreement": Part(weight=50, tasks=agreement_tasks),
    "kernels": Part(weight=80, tasks=kernel_tasks),
    "engine": Part(weight=70, tasks=engine_tasks),
    "laps": Part(weight=100, tasks=laps_tasks),
    "transformers": Part(weight=50, tasks=rival_tasks),
    # Last: they measure nothing, and `make test-gpu` runs them too.
    "tests": Part(weight=40, tasks=pytest_tasks),
}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = _parser()
    options = parser.parse_args(arguments)
    if unknown := [name for name in options.parts if name not in PARTS]:
        parser.error(f"no part {', '.join(unknown)}; there are {', '.join(PARTS)}")
    if not options.rehearse and not torch.cuda.is_available():
        print("gpu-check needs an NVIDIA GPU; torch finds none", file=sys.stderr)
        return NO_GPU
    scale = TINY if options.rehearse else FULL
    if options.child:
        name, journal, seconds = options.child
        return _run_part(name, scale, Journal(Path(journal)), float(seconds))
    chosen = options.parts or [name for name in PARTS if not (options.rehearse and name == "tests")]
    folder = Path(tempfile.mkdtemp(prefix="gpu-check-")) if options.rehearse else options.out
    folder.mkdir(parents=True, exist_ok=True)
    journals = _supervise(chosen, scale, options)
    tables, failed = _report(journals, folder, options.commit)
    for name in chosen:
        for task in PARTS[name].tasks(scale):
            tables.setdefault(task.table, [])
    print(*summary(tables), *lines(tables.get(TABLE, [])), sep="\n")
    if options.rehearse:
        print("rehearsed on a CPU with tiny models: no number here says anything of a GPU")
    return 1 if failed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--seconds", type=float, default=SECONDS, help="for everything")
    parser.add_argument("--out", type=Path, default=DATA, help="folder of the rows")
    parser.add_argument("--commit", help="what to write into rows where there is no git")
    parser.add_argument(
        "--rehearse", action="store_true", help="on the CPU, tiny, for the code's sake"
    )
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    return parser


def _supervise(
    chosen: Sequence[str], scale: Scale, options: argparse.Namespace
) -> dict[str, Journal]:
    """One part after the other; what each wrote."""
    folder = Path(tempfile.mkdtemp(prefix="gpu-check-journals-"))
    print(f"journals: {folder}", flush=True)
    command = [sys.executable, "-m", "gpu.check"]
    environment = dict(os.environ)
    if options.rehearse:
        command.append("--rehearse")
        # Triton looks at it when a kernel is imported.
        environment["TRITON_INTERPRET"] = "1"
    deadline = Deadline.after(options.seconds)
    journals = {}
    for place, name in enumerate(chosen):
        weights = [PARTS[each].weight for each in chosen[place:]]
        seconds = deadline.left * weights[0] / sum(weights)
        print(f"== {name}, {max(0.0, seconds):.0f} s", flush=True)
        journals[name] = Journal(folder / f"{name}.jsonl")
        tasks = [task.name for task in PARTS[name].tasks(scale)]
        child = [*command, "--child", name, str(journals[name].path)]
        supervise(child, tasks, Deadline.after(seconds), journals[name], environment)
    return journals


def _run_part(name: str, scale: Scale, journal: Journal, seconds: float) -> int:
    """In a process of its own: the tasks of a part that have no outcome yet."""
    if scale.device == "cpu":
        torch.set_num_threads(1)
    try:
        run_tasks(PARTS[name].tasks(scale), Deadline.after(seconds), journal, _device_works)
    except DeviceLost as error:
        print(f"the GPU is lost to this process: {error}", flush=True)
        return DEVICE_LOST
    return 0


def _device_works() -> bool:
    if not torch.cuda.is_available():
        return True
    try:
        torch.ones(1, device="cuda").item()
    except RuntimeError:
        return False
    return True


def _report(
    journals: Mapping[str, Journal], folder: Path, commit: str | None
) -> tuple[dict[str, list[Row]], bool]:
    """Writes the rows, says how tasks ended; the rows by table, and whether anything failed."""
    tables: dict[str, list[Row]] = defaultdict(list)
    failed = False
    for name, journal in journals.items():
        for table, row in journal.rows():
            tables[table].append({**row, "commit": commit} if commit else row)
        for outcome in journal.outcomes().values():
            failed |= outcome.state == "failed"
            print(f"{name:14} {outcome.task:36} {outcome.state:9} {outcome.why}")
    if ENGINE in tables:
        tables[ENGINE] += peer_rows(tables[ENGINE], {**SHAPES, **TINY.shapes})
    for table, rows in tables.items():
        if not rows:
            continue
        try:
            append_rows(table, rows, folder)
        except ValueError as error:
            print(f"rows of {table} stay in the journals: {error}", file=sys.stderr)
            failed = True
    return tables, failed


if __name__ == "__main__":
    sys.exit(main())

"""Costs of steps that were measured: a CSV with a row for each step."""

import csv
from dataclasses import fields
from pathlib import Path
from typing import Final

from lengthwise_policy.cost.fit import CostFit, StepSample
from lengthwise_simulator.cost.profile import LinearCosts
from lengthwise_simulator.errors import SimulationError

COLUMNS: Final = tuple(field.name for field in fields(StepSample))
LEAST_ROWS: Final = 50
MOST: Final = 1e15  # attention of a prompt of 16 million tokens is 3e14


def calibrate(path: Path) -> LinearCosts:
    """Fitted as workers fit their own steps. Columns are those of `StepSample`; those of what no
    step has may be missing. Errors: SimulationError, OSError."""
    samples = []
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        present = [name for name in COLUMNS if name in (reader.fieldnames or ())]
        if "seconds" not in present or len(present) == 1:
            raise SimulationError(
                f"{path}, line 1: got columns {', '.join(reader.fieldnames or ()) or 'none'},"
                f" expected seconds and some of {', '.join(COLUMNS[1:])}"
            )
        for row in reader:
            where = f"{path}, line {reader.line_num}"
            values = {name: _number(where, name, row[name]) for name in present}
            seconds = values.pop("seconds")
            samples.append(
                StepSample(seconds=seconds, **{name: int(x) for name, x in values.items()})
            )
    if len(samples) < LEAST_ROWS:
        raise SimulationError(f"{path}: got {len(samples)} steps, expected at least {LEAST_ROWS}")
    fit = CostFit(window=len(samples), refit_every=len(samples))
    for sample in samples:
        fit.observe(sample)
    if fit.measured is None:
        raise SimulationError(
            f"{path}: the steps are too alike to tell what a step costs from what a token does;"
            " measure prompts of more lengths, and batches of more sizes"
        )
    return LinearCosts(fit.measured)


def _number(where: str, name: str, text: str | None) -> float:
    try:
        number = float(text or "")
    except ValueError:
        number = -1.0
    if not 0 <= number <= MOST or (name == "seconds" and number == 0):
        raise SimulationError(
            f"{where}: {name}: got {text!r}, expected a number from 0 to {MOST:g}"
        )
    return number

"""Asks an installed aiconfigurator what steps take, by its tables of measured operators.

It wants other versions of packages than ours, 850 MB of them, so that it lies in an environment of
its own, whose Python `AICONFIGURATOR` names:

    python -m venv aic && aic/bin/pip install aiconfigurator==0.12.0
    export AICONFIGURATOR=aic/bin/python

aiconfigurator is NVIDIA's, Apache-2.0. Its numbers are its own: they stay in files of the user.
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from lengthwise_simulator.errors import SimulationError

VARIABLE: Final = "AICONFIGURATOR"
SECONDS: Final = 180.0
"""Of one call; loading its tables takes 4 s, a thousand steps half a second."""

SYSTEMS: Final[Mapping[str, str]] = {
    "B200": "b200_sxm",
    "H200": "h200_sxm",
    "H100": "h100_sxm",
    "A100": "a100_sxm",
    "L40S": "l40s",
}
"""Its names of our GPUs; it has no tables of the others."""

Step = tuple[int, int, int, int]
"""New tokens of a prompt, tokens of it before them, requests that decode, context of each."""

Milliseconds = tuple[float, float, float]
"""All but attention, attention of the prompt, attention of the decodes."""

PROGRAM: Final = Path(__file__).with_name("aiconfigurator_program.py")


@dataclass(frozen=True, slots=True, kw_only=True)
class StepQuestion:
    config: Mapping[str, Any]  # a model's config.json
    gpu: str
    ranks: int
    steps: Sequence[Step]


@dataclass(frozen=True, slots=True, kw_only=True)
class StepAnswer:
    """`error` says why there are no steps; without one there are as many as were asked for."""

    version: str = ""
    steps: Sequence[Milliseconds] = ()
    error: str = ""


def is_installed() -> bool:
    """Whether some Python was named that has it, or this one does."""
    return VARIABLE in os.environ or find_spec("aiconfigurator") is not None


def ask(questions: Sequence[StepQuestion]) -> list[StepAnswer]:
    """One for each. Errors: SimulationError where there is no aiconfigurator, or it breaks."""
    asked = [
        {
            "config": question.config,
            "system": system_of(question.gpu),
            "ranks": question.ranks,
            "steps": question.steps,
        }
        for question in questions
    ]
    try:
        return [_answer(*each) for each in zip(questions, answers(PROGRAM, asked), strict=True)]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise _absent(f"its answer makes no sense: {error}") from error


def system_of(gpu: str) -> str:
    """Its name of a GPU. Errors: SimulationError."""
    system = SYSTEMS.get(gpu)
    if system is None:
        known = ", ".join(SYSTEMS)
        raise SimulationError(f"aiconfigurator: got {gpu}, expected one of {known}")
    return system


def answers(program: Path, questions: Sequence[object], seconds: float = SECONDS) -> list[Any]:
    """What a program says that the named Python runs: it reads a line of JSON for each question,
    and writes a list of the answers last. Errors: SimulationError."""
    try:
        done = subprocess.run(
            [_python(), "-I", str(program)],
            input="".join(f"{json.dumps(question)}\n" for question in questions),
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=seconds,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise _absent(str(error)) from error
    if done.returncode:
        raise _absent((done.stderr.strip().splitlines() or ["it said nothing"])[-1])
    try:
        said = json.loads(done.stdout.splitlines()[-1])
    except (ValueError, IndexError, RecursionError) as error:
        raise _absent(f"its answer makes no sense: {error}") from error
    if not isinstance(said, list) or len(said) != len(questions):
        raise _absent("its answer makes no sense: it is no list of answers")
    return said


def _answer(question: StepQuestion, answer: Mapping[str, Any]) -> StepAnswer:
    if error := answer.get("error"):
        return StepAnswer(error=" ".join(str(error).split())[:300])
    steps = [tuple(map(float, parts)) for parts in answer["steps"]]
    if len(steps) != len(question.steps) or {len(parts) for parts in steps} - {3}:
        raise ValueError(f"{len(steps)} steps for {len(question.steps)}")
    return StepAnswer(version=str(answer["version"]), steps=steps)  # type: ignore[arg-type]


def _python() -> str:
    return os.environ.get(VARIABLE) or sys.executable


def _absent(why: str) -> SimulationError:
    return SimulationError(
        f"{VARIABLE}: got {_python()}, expected a Python with aiconfigurator 0.12 ({why[:300]});"
        " make one: python -m venv aic && aic/bin/pip install aiconfigurator==0.12.0, then export"
        f" {VARIABLE}=aic/bin/python"
    )

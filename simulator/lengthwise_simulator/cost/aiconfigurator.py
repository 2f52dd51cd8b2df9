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

_PROGRAM: Final = Path(__file__).with_name("aiconfigurator_program.py")


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
    lines = []
    for question in questions:
        system = SYSTEMS.get(question.gpu)
        if system is None:
            raise SimulationError(
                f"aiconfigurator: got {question.gpu}, expected one of {', '.join(SYSTEMS)}"
            )
        asked = {"config": question.config, "system": system, "ranks": question.ranks}
        lines.append(json.dumps({**asked, "steps": question.steps}))
    python = os.environ.get(VARIABLE) or sys.executable
    try:
        done = subprocess.run(
            [python, "-I", str(_PROGRAM)],
            input="".join(f"{line}\n" for line in lines),
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise _absent(python, str(error)) from error
    if done.returncode:
        raise _absent(python, (done.stderr.strip().splitlines() or ["it said nothing"])[-1])
    try:
        answers = json.loads(done.stdout.splitlines()[-1])
        return [_answer(*each) for each in zip(questions, answers, strict=True)]
    except (ValueError, TypeError, AttributeError, IndexError, RecursionError) as error:
        raise _absent(python, f"its answer makes no sense: {error}") from error


def _answer(question: StepQuestion, answer: Mapping[str, Any]) -> StepAnswer:
    if error := answer.get("error"):
        return StepAnswer(error=" ".join(str(error).split())[:300])
    steps = [tuple(map(float, parts)) for parts in answer["steps"]]
    if len(steps) != len(question.steps) or {len(parts) for parts in steps} - {3}:
        raise ValueError(f"{len(steps)} steps for {len(question.steps)}")
    return StepAnswer(version=str(answer["version"]), steps=steps)  # type: ignore[arg-type]


def _absent(python: str, why: str) -> SimulationError:
    return SimulationError(
        f"{VARIABLE}: got {python}, expected a Python with aiconfigurator 0.12 ({why[:300]}); make"
        " one: python -m venv aic && aic/bin/pip install aiconfigurator==0.12.0, then export"
        f" {VARIABLE}=aic/bin/python"
    )

"""What vLLM takes for the same steps on an H200, by the operator tables of aiconfigurator.

Where that is not installed there is nothing to compare with:

    AICONFIGURATOR=aic/bin/python make gpu-check
"""

import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Final

from lengthwise_simulator.cost.aiconfigurator import Step, StepQuestion, ask, is_installed
from lengthwise_simulator.errors import SimulationError

Row = Mapping[str, Any]

NAME: Final = "aiconfigurator, vllm"
GPU: Final = "H200"
PREFILL: Final = re.compile(r"(?P<model>\S+), (?P<tokens>\d+) tokens")
DECODE: Final = re.compile(r"(?P<model>\S+), (?P<requests>\d+) rows after (?P<tokens>\d+)")


def peer_rows(rows: Sequence[Row], configs: Mapping[str, Mapping[str, Any]]) -> list[Row]:
    """A row of the peer beside each of ours that it has an answer for; `configs` are the models'
    config.json by name."""
    asked = [(row, question) for row in rows if (question := _question(row, configs)) is not None]
    answers = _milliseconds([question for _, question in asked]) if asked and is_installed() else []
    return [
        {
            **row,
            "implementation": NAME,
            "repeats": 0,
            "p20_ms": ms,
            "p50_ms": ms,
            "p80_ms": ms,
            "tokens_per_second": round(row["tokens_per_second"] * row["p50_ms"] / ms, 1),
            "gigabytes_per_second": round(row["gigabytes_per_second"] * row["p50_ms"] / ms, 1),
            "teraflops_per_second": round(row["teraflops_per_second"] * row["p50_ms"] / ms, 2),
            "share_of_ceiling": round(row["ceiling_ms"] / ms, 4),
        }
        for (row, _), ms in zip(asked, answers, strict=False)
        if ms is not None
    ]


def _question(row: Row, configs: Mapping[str, Mapping[str, Any]]) -> StepQuestion | None:
    if row["implementation"] != "lengthwise":
        return None
    step: Step
    if row["op"] == "prefill" and (found := PREFILL.fullmatch(row["shape"])):
        step = int(found["tokens"]), 0, 0, 0
    elif row["op"] == "decode" and (found := DECODE.fullmatch(row["shape"])):
        step = 0, 0, int(found["requests"]), int(found["tokens"])
    else:
        return None
    return StepQuestion(config=configs[found["model"]], gpu=GPU, ranks=1, steps=[step])


def _milliseconds(questions: Sequence[StepQuestion]) -> list[float | None]:
    """Empty where there is no aiconfigurator, or it does not answer."""
    try:
        answers = ask(questions)
    except SimulationError as error:
        print(f"no times of a peer: {error}", file=sys.stderr)
        return []
    for answer in answers:
        if answer.error:
            print(f"no time of a peer: {answer.error}", file=sys.stderr)
    return [None if answer.error else round(sum(answer.steps[0]), 4) for answer in answers]

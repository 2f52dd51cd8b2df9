"""What aiconfigurator plans: of a steady state of requests of one length, by arithmetic."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from lengthwise_simulator.cost.aiconfigurator import answers, system_of
from lengthwise_simulator.search.shape import DeploymentShape

PROGRAM: Final = Path(__file__).with_name("static_plan_program.py")
SECONDS: Final = 3600.0  # a minute for each plan on a busy machine


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanSetting:
    """What is asked for."""

    model: str
    gpu: str
    gpus: int
    prompt: int
    output: int
    ttft_seconds: float
    tpot_seconds: float

    def __str__(self) -> str:
        ttft, tpot = self.ttft_seconds * 1e3, self.tpot_seconds * 1e3
        return f"{self.model} on {self.gpus} {self.gpu}, {ttft:.0f}/{tpot:.0f} ms"


@dataclass(frozen=True, slots=True, kw_only=True)
class StaticShape:
    shape: DeploymentShape
    rate: float  # requests a second, of all its GPUs

    @property
    def per_gpu(self) -> float:
        return self.rate / self.shape.gpus


@dataclass(frozen=True, slots=True, kw_only=True)
class StaticPlan:
    """`best` of each kind: aggregated or disaggregated; a kind without any is left out."""

    config: Mapping[str, Any]  # the model's config.json
    best: Mapping[str, StaticShape]

    @property
    def winner(self) -> str:
        return max(self.best, key=lambda kind: self.best[kind].per_gpu)


def static_plans(settings: Sequence[PlanSetting], kept: Path) -> list[StaticPlan]:
    """Its answers are kept in a file of the user's. Errors: SimulationError, OSError."""
    asked = [
        {
            "model": each.model,
            "system": system_of(each.gpu),
            "gpus": each.gpus,
            "prompt": each.prompt,
            "output": each.output,
            "ttft_ms": each.ttft_seconds * 1e3,
            "tpot_ms": each.tpot_seconds * 1e3,
        }
        for each in settings
    ]
    if not kept.exists():
        kept.write_text(json.dumps([asked, answers(PROGRAM, asked, SECONDS)]), encoding="utf-8")
    was_asked, found = json.loads(kept.read_text(encoding="utf-8"))
    if was_asked != asked:
        raise ValueError(f"{kept}: has answers to other questions; remove it")
    return [_plan(answer) for answer in found]


def kind_of(shape: DeploymentShape) -> str:
    return "aggregated" if shape.is_aggregated else "disaggregated"


def _plan(answer: Mapping[str, Any]) -> StaticPlan:
    best = {}
    for found in answer["best"].values():
        prefill, prefill_ranks, decode, decode_ranks = found["workers"]
        shape = DeploymentShape(
            prefill=prefill, prefill_ranks=prefill_ranks, decode=decode, decode_ranks=decode_ranks
        )
        rate = found["rate_per_gpu"] * shape.gpus
        best[kind_of(shape)] = StaticShape(shape=shape, rate=rate)
    return StaticPlan(config=answer["config"], best=best)

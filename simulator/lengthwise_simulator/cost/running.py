"""Costs that running workers have fitted to their own steps, as their metrics tell them."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from math import isfinite
from pathlib import Path
from typing import Final

from lengthwise_policy.cost.model import CostModel, typical_cost
from lengthwise_policy.types import Role
from lengthwise_simulator.cost.profile import Chunk
from lengthwise_simulator.errors import SimulationError

ROLES: Final[Sequence[Role]] = ("prefill", "decode")
NAMES: Final = frozenset(field.name for field in fields(CostModel))

Sample = tuple[str, Mapping[str, str], float]
"""Of a metric: its name, its labels and its value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningCosts:
    """By the workers that measured them: prompts alone by prefill workers, steps with decodes by
    decode workers; chunks beside decodes too, where they have computed any."""

    prefill: CostModel
    decode: CostModel

    @classmethod
    def of_metrics(cls, workers: Iterable[tuple[str, Iterable[Sample]]]) -> "RunningCosts":
        """`workers`: where each was asked, and what it answered. Of several alike the middle one
        counts; where all are of one role it stands for the other. Errors: SimulationError."""
        found: dict[str, list[CostModel]] = {}
        for name, samples in workers:
            role, model = _fitted(name, samples)
            found.setdefault(role, []).append(model)
        if not found:
            raise SimulationError("calibrate: got no worker, expected one at least")
        every = [*found.values()]
        models = {role: typical_cost(found.get(role) or every[0]) for role in ROLES}
        return cls(prefill=models["prefill"], decode=models["decode"])

    @classmethod
    def read(cls, path: Path) -> "RunningCosts":
        """What `write` wrote. Errors: SimulationError, OSError."""
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            return cls(**{role: CostModel(**_checked(values[role])) for role in ROLES})
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise SimulationError(
                f"{path}: {error!r}; expected the JSON that calibrate writes, with"
                f" {' and '.join(ROLES)}, each of {', '.join(sorted(NAMES))}"
            ) from error

    def write(self, path: Path) -> None:
        """As JSON. Errors: OSError."""
        path.write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")

    def step_seconds(self, chunks: Sequence[Chunk], requests: int, context: int) -> float:
        if not requests:
            seconds, model = self.prefill.step_seconds, self.prefill
        else:
            seconds, model = self.decode.decode_step_seconds(requests, context), self.decode
            if not (model.token_seconds or model.attention_seconds):
                model = self.prefill
        return seconds + sum(model.chunk_seconds(new, history) for new, history in chunks)


def _fitted(name: str, samples: Iterable[Sample]) -> tuple[str, CostModel]:
    """What a worker's steps take, and what its host takes between them, on average."""
    role, values, gaps = "", {}, dict.fromkeys(("sum", "count"), 0.0)
    for series, labels, value in samples:
        if series == "lengthwise_cost_seconds":
            role = labels.get("role", "")
            values[f"{labels.get('coefficient')}_seconds"] = value
        elif (part := series.removeprefix("lengthwise_step_gap_seconds_")) in gaps:
            gaps[part] = value
    if role not in ROLES or not values.keys() >= NAMES:
        raise SimulationError(
            f"{name}: got no lengthwise_cost_seconds, expected a worker's metrics; a worker has"
            " them after 50 requests or so, of several lengths"
        )
    model = CostModel(**{name: values[name] for name in NAMES})
    gap = gaps["sum"] / gaps["count"] if gaps["count"] else 0.0
    return role, replace(model, step_seconds=model.step_seconds + gap)


def _checked(values: Mapping[str, float]) -> dict[str, float]:
    """Errors: ValueError."""
    if not all(isfinite(value) and value >= 0 for value in values.values()):
        raise ValueError(f"a coefficient below 0 or without end in {dict(values)}")
    return {name: float(value) for name, value in values.items()}

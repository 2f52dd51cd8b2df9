"""What has been played so far, in a file: a run that was cut short goes on from there.

Invariant: one file holds plays of one commit with one set of arguments.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from cpu import CpuUse

from goodput.measure import OBJECTIVES, Objective, Rungs
from goodput.player import Outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class Play:
    """One arm at one rate."""

    shape: str
    rate: float
    arm: str
    cpu: CpuUse
    seconds: float
    outcomes: Sequence[Outcome]  # without the warm-up's

    def met(self, objective: Objective) -> list[bool]:
        return [objective.is_met(outcome) for outcome in self.outcomes]


class Plays:
    """All of a run, in the order they were played."""

    def __init__(self, path: Path, conditions: Mapping[str, object]) -> None:
        """Reads the plays of `path` where it was begun under the same conditions; begins it anew
        otherwise."""
        self._path = path
        self.all: list[Play] = []
        header = json.dumps(conditions, sort_keys=True)
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        if lines and lines[0] == header:
            self.all = [_read(line) for line in lines[1:]]
            print(f"{path}: {len(self.all)} plays are there already", flush=True)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(header + "\n", encoding="utf-8")

    def add(self, play: Play) -> None:
        self.all.append(play)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(play)) + "\n")

    def has(self, shape: str, rate: float, arm: str) -> bool:
        return any((one.shape, one.rate, one.arm) == (shape, rate, arm) for one in self.all)

    def of(self, shape: str) -> list[Play]:
        return [play for play in self.all if play.shape == shape]

    def rungs(self, shape: str, arm: str, objective: Objective) -> Rungs:
        return {play.rate: play.met(objective) for play in self.of(shape) if play.arm == arm}

    def shares(self, shape: str, rate: float) -> list[float]:
        """Of requests that met each objective in each arm."""
        return [
            sum(play.met(objective)) / len(play.outcomes)
            for play in self.of(shape)
            if play.rate == rate
            for objective in OBJECTIVES
        ]

    def done(self) -> None:
        """The rows are written."""
        self._path.unlink()


def _read(line: str) -> Play:
    data = json.loads(line)
    outcomes = [Outcome(**outcome) for outcome in data.pop("outcomes")]
    return Play(cpu=CpuUse(**data.pop("cpu")), outcomes=outcomes, **data)

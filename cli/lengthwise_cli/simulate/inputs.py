"""What is simulated, made of the commands' options."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import get_args

from lengthwise_checkpoint.config_json import ConfigJson
from lengthwise_checkpoint.families import read_config, read_decoder_spec
from lengthwise_checkpoint.hub import find_checkpoint
from lengthwise_cli.bench.plan import PromptLengths
from lengthwise_cli.errors import CommandError
from lengthwise_policy.objectives import Objectives
from lengthwise_policy.placement.policy import PlacementPolicy
from lengthwise_policy.prefill.policy import DisciplineName, PrefillPolicy
from lengthwise_simulator.cluster.spec import ClusterPolicies
from lengthwise_simulator.cost.calibrated import calibrate
from lengthwise_simulator.cost.gpus import find_gpu
from lengthwise_simulator.cost.profile import CostProfile
from lengthwise_simulator.cost.running import RunningCosts
from lengthwise_simulator.cost.silicon import silicon_tables
from lengthwise_simulator.search.shape import ModelOnGpus
from lengthwise_simulator.workload.arrivals import gamma
from lengthwise_simulator.workload.planned import ArrivingRequest
from lengthwise_simulator.workload.requests import Sessions, as_recorded, at_times, conversations
from lengthwise_simulator.workload.traces import TraceRow, read_trace

DEFAULT_RATE = 5.0
MIXED_ROWS = 1000
"""Drawn of `--lengths`."""


def check_rate(rate: float) -> None:
    """Errors: CommandError."""
    if not 0 < rate < float("inf"):
        raise CommandError(f"--rate: got {rate:g}, expected requests a second above 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """Errors of all methods: CommandError, SimulationError, OSError."""

    trace: Path | None
    lengths: list[str]
    rate: float | None
    cv: float
    speed: float
    turns: float
    think: float
    system_tokens: int
    seed: int

    def rows(self, most: int | None = None) -> Sequence[TraceRow]:
        """Of the trace, or drawn of the lengths."""
        if self.trace is not None:
            return read_trace(self.trace, most)
        draw = Random(f"{self.seed}/lengths")
        kinds = [PromptLengths.parse(text) for text in self.lengths]
        chosen = draw.choices(kinds, [kind.weight for kind in kinds], k=MIXED_ROWS)
        planned = [kind.draw(draw, 0.0) for kind in chosen]
        return [TraceRow(None, each.prompt_tokens, each.output_tokens, ()) for each in planned]

    def fitting_rows(self, context: int) -> list[TraceRow]:
        """Those that a model of this context can serve; at least one."""
        rows = [row for row in self.rows() if row.prompt_tokens + row.output_tokens <= context]
        if not rows:
            raise CommandError(f"no request fits the context of the model, {context:,} tokens")
        return rows

    def requests(self, most: int) -> list[ArrivingRequest]:
        """Those of one run."""
        is_recorded = self.trace is not None and self.rate is None and self.turns == 1.0
        if is_recorded and not self.system_tokens:
            return as_recorded(self.rows(most), speed=self.speed)
        rate = DEFAULT_RATE if self.rate is None else self.rate
        return self.requests_at(self.rows(), rate, most)

    def requests_at(
        self, rows: Sequence[TraceRow], rate: float, number: int
    ) -> list[ArrivingRequest]:
        """`number` requests at `rate` a second; of conversations, so many first turns that there
        are about so many turns."""
        times = gamma(rate / self.turns, self.cv, Random(f"{self.seed}/times"))
        draw = Random(f"{self.seed}/rows")
        if self.turns == 1.0 and not self.system_tokens:
            return at_times(rows, times, number, draw)
        sessions = Sessions(
            mean_turns=self.turns, think_seconds=self.think, system_tokens=self.system_tokens
        )
        return conversations(sessions, rows, times, max(1, round(number / self.turns)), draw)


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs(Workload):
    """Errors of all methods: CommandError, SimulationError, CheckpointError, OSError."""

    model: Path
    gpu: str
    steps: Path | None
    aiconfigurator: Path | None
    strategy: str
    discipline: str
    local_prefill: bool
    objectives: Objectives

    def model_on_gpus(self) -> ModelOnGpus:
        if not self.model.exists():
            raise CommandError(
                f"--model: got {self.model}, expected a checkpoint's folder, of which config.json"
                " is enough, or a .gguf file"
            )
        return ModelOnGpus(
            spec=read_decoder_spec(read_config(find_checkpoint(str(self.model), ()))),
            gpu=find_gpu(self.gpu),
            gpu_name=self.gpu.upper(),
            measured=self._measured(),
        )

    def _measured(self) -> Callable[[int], CostProfile | None] | None:
        if self.steps is not None and self.aiconfigurator is not None:
            raise CommandError("got --steps and --aiconfigurator, expected one of them")
        if self.steps is not None:
            is_fitted = self.steps.suffix == ".json"
            costs: CostProfile = (
                RunningCosts.read(self.steps) if is_fitted else calibrate(self.steps)
            )
            return lambda ranks: costs
        if self.aiconfigurator is not None:
            file = ConfigJson.read(self.model / "config.json")
            values = {key: file.value(key) for key in file}
            return silicon_tables(self.aiconfigurator, values, self.gpu.upper()).get
        return None

    def policies(self) -> ClusterPolicies:
        names = get_args(DisciplineName)
        if self.discipline not in names:
            raise CommandError(
                f"--discipline: got {self.discipline!r}, expected one of {', '.join(names)}"
            )
        return ClusterPolicies(
            strategy=self.strategy,
            placement=PlacementPolicy(local_prefill=self.local_prefill, objectives=self.objectives),
            prefill=PrefillPolicy(discipline=self.discipline),  # type: ignore[arg-type]
        )

"""The commands that simulate. What they do is loaded when they run."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Option

from lengthwise_cli.errors import CommandError
from lengthwise_cli.simulate.calibrate import calibrate
from lengthwise_cli.simulate.option_groups import (
    DEFAULT_DISCIPLINE,
    ModelOptions,
    ObjectiveOptions,
    PolicyOptions,
    RecordedRateOptions,
    ShapeOptions,
    WorkloadOptions,
    with_groups,
)
from lengthwise_cli.simulate.replay import replay
from lengthwise_policy.placement.strategies import DEFAULT_STRATEGY

if TYPE_CHECKING:
    from lengthwise_cli.simulate.inputs import Inputs

Requests = Annotated[int, Option(min=1, max=10_000_000, help="How many, at most; of each run.")]


@with_groups
def simulate(
    model: ModelOptions,
    shape: ShapeOptions,
    workload: WorkloadOptions,
    recorded: RecordedRateOptions,
    policies: PolicyOptions,
    objectives: ObjectiveOptions,
    requests: Requests = 1000,
    csv: Annotated[Path | None, Option(help="Write a row per request here.")] = None,
    json: Annotated[Path | None, Option(help="Write the summary here.")] = None,
    plot: Annotated[Path | None, Option(help="Draw it here: .svg, .png or .pdf.")] = None,
    chrome_trace: Annotated[
        Path | None, Option(help="Write what Chrome's and Perfetto's viewers read here.")
    ] = None,
) -> None:
    """Simulate a deployment on GPUs that need not be there; tell percentiles and goodput.

    The policies are those that serve, in virtual time; step times are calculated from the model's
    config.json and the GPU's data sheet, or fitted to measured steps.
    """
    with _simulation_errors():
        from lengthwise_cli.simulate.output import RunOutput
        from lengthwise_cli.simulate.run import simulate_once

        output = RunOutput(csv=csv, json=json, plot=plot, chrome_trace=chrome_trace)
        inputs = _inputs(model, workload, policies, objectives, recorded)
        run = simulate_once(inputs, _shape(shape), requests, output)
    if not any(journey.ending == "done" for journey in run.journeys):
        raise typer.Exit(1)


@with_groups
def plan(
    model: ModelOptions,
    workload: WorkloadOptions,
    policies: PolicyOptions,
    objectives: ObjectiveOptions,
    gpus: Annotated[int, Option(min=1, max=64, help="Of one unit; --rate says how many units.")],
    rate: Annotated[float | None, Option(help="Requests a second that have to be served.")] = None,
    attainment: Annotated[
        float, Option(min=0.01, max=1.0, help="Share of the requests that has to meet them.")
    ] = 0.9,
    seconds: Annotated[
        float, Option(min=1.0, max=86_400.0, help="Of arrivals that each rate is tried for.")
    ] = 60.0,
    values: Annotated[
        Path | None, Option(help="Write the chart's values of the best one here.")
    ] = None,
) -> None:
    """Find the deployment with the highest goodput per GPU; say what breaks it first.

    Degrees of tensor parallelism, ratios of prefill to decode workers, and aggregated serving: what
    looks best by arithmetic is simulated at rising rates, with the policies that serve.
    """
    with _simulation_errors():
        from lengthwise_cli.simulate.planning import find_plan

        inputs = _inputs(model, workload, policies, objectives)
        find_plan(inputs, gpus, rate=rate, attainment=attainment, seconds=seconds, values=values)


@with_groups
def sweep(
    model: ModelOptions,
    workload: WorkloadOptions,
    objectives: ObjectiveOptions,
    out: Annotated[Path, Option(help="CSV of a row per point; points it has are not run again.")],
    rates: Annotated[list[float], Option("--rate", help="Requests a second; repeat for more.")],
    ratios: Annotated[
        list[str], Option("--ratio", help="PREFILL:DECODE workers; repeat; 0:N is aggregated.")
    ] = ["1:1"],  # noqa: B006  (typer copies it)
    prefill_gpus: Annotated[int, Option(min=1, help="Of each prefill worker.")] = 1,
    decode_gpus: Annotated[int, Option(min=1, help="Of each decode worker.")] = 1,
    disciplines: Annotated[
        list[str], Option("--discipline", help="Of prefill workers; repeat for more.")
    ] = [DEFAULT_DISCIPLINE],  # noqa: B006
    strategies: Annotated[
        list[str], Option("--strategy", help="Of placement; repeat for more.")
    ] = [DEFAULT_STRATEGY],  # noqa: B006
    local_prefill: Annotated[
        bool, Option(help="Whether decode workers may compute prompts too.")
    ] = True,
    seeds: Annotated[int, Option(min=1, max=1000, help="Runs of each, of other arrivals.")] = 1,
    requests: Requests = 1000,
    processes: Annotated[int, Option(min=1, max=256, help="That run points at once.")] = 2,
) -> None:
    """Simulate every combination of rates, ratios and policies; write a row for each.

    Ended before its end, it goes on where it was: what the file has is not run again.
    """
    with _simulation_errors():
        from lengthwise_cli.simulate.sweeping import SweepGrid, run_sweep

        policies = PolicyOptions(
            strategy=strategies[0], discipline=disciplines[0], local_prefill=local_prefill
        )
        grid = SweepGrid(
            rates=rates, disciplines=disciplines, strategies=strategies, ratios=ratios,
            seeds=range(workload.seed, workload.seed + seeds),
        )  # fmt: skip
        run_sweep(
            _inputs(model, workload, policies, objectives), grid, (prefill_gpus, decode_gpus),
            requests=requests, path=out, processes=processes,
        )  # fmt: skip


@with_groups
def tune(
    model: ModelOptions,
    shape: ShapeOptions,
    workload: WorkloadOptions,
    policies: PolicyOptions,
    objectives: ObjectiveOptions,
    rate: Annotated[float, Option(help="Requests a second, near what the deployment stands.")],
    requests: Requests = 1000,
    seeds: Annotated[int, Option(min=2, max=100, help="Runs of each value, in pairs.")] = 4,
    values: Annotated[
        Path | None, Option(help="Write the chart's values of what is better here.")
    ] = None,
) -> None:
    """Find better batch tokens, shares and windows by simulation; tell gain and spread.

    Each value is tried against the best so far on the same workloads; one whose gain is not larger
    than its spread over them is not taken.
    """
    with _simulation_errors():
        from lengthwise_cli.simulate.tuning import find_settings
        from lengthwise_simulator.search.shape import DeploymentShape

        prefill, prefill_ranks, decode, decode_ranks = _shape(shape)
        tuned = DeploymentShape(
            prefill=prefill, prefill_ranks=prefill_ranks, decode=decode, decode_ranks=decode_ranks
        )
        inputs = _inputs(model, workload, policies, objectives)
        find_settings(inputs, tuned, rate=rate, requests=requests, seeds=seeds, values=values)


def _shape(shape: ShapeOptions) -> tuple[int, int, int, int]:
    return shape.prefill, shape.prefill_gpus, shape.decode, shape.decode_gpus


def _inputs(
    model: ModelOptions,
    workload: WorkloadOptions,
    policies: PolicyOptions,
    objectives: ObjectiveOptions,
    recorded: RecordedRateOptions = RecordedRateOptions(),  # noqa: B008  (frozen)
) -> "Inputs":
    from lengthwise_cli.simulate.inputs import Inputs

    return Inputs(
        **vars(model), **vars(workload), **vars(policies), **vars(recorded),
        objectives=objectives.objectives(),
    )  # fmt: skip


@contextmanager
def _simulation_errors() -> Iterator[None]:
    from lengthwise_checkpoint.errors import CheckpointError
    from lengthwise_simulator.errors import SimulationError

    try:
        yield
    except (SimulationError, CheckpointError) as error:
        raise CommandError(str(error)) from error


COMMANDS: tuple[Callable[..., Any], ...] = (simulate, plan, sweep, tune, replay, calibrate)

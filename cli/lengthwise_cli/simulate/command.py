"""The commands, and their options. What they do is loaded when they run."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from typer import Option

from lengthwise_cli.errors import CommandError
from lengthwise_policy.objectives import Objectives
from lengthwise_policy.placement.strategies import DEFAULT_STRATEGY
from lengthwise_policy.prefill.policy import PrefillPolicy

OBJECTIVES = Objectives()
DEFAULT_DISCIPLINE = PrefillPolicy().discipline

ModelPath = Annotated[
    Path, Option("--model", help="Checkpoint folder, of which config.json is read alone.")
]
Gpu = Annotated[str, Option(help="B200, H200, H100, A100, A100-40GB, L40S or L4.")]
Steps = Annotated[
    Path | None, Option(help="CSV of steps that were measured, in place of calculated times.")
]
Silicon = Annotated[
    Path | None,
    Option(
        "--aiconfigurator",
        metavar="FILE",
        help="Step times by the tables of an aiconfigurator, kept in this file; where it is not"
        " there, the Python that AICONFIGURATOR names is asked.",
    ),
]
Trace = Annotated[
    Path | None, Option(help="Of Azure, BurstGPT, Mooncake, or CSV of prompt and output tokens.")
]
Lengths = Annotated[
    list[str],
    Option(metavar="PROMPT/OUTPUT", help="Without a trace; as for bench: 64-512/32x9."),
]
Rate = Annotated[
    float | None, Option(help="Requests a second, in place of the trace's times; else 5.")
]
Variation = Annotated[
    float, Option("--cv", help="Of the gaps between arrivals; 1: Poisson, more: bursts.")
]
Turns = Annotated[
    float, Option(min=1.0, help="Of a conversation, on average; their history is cached.")
]
Think = Annotated[float, Option(min=0.0, help="Seconds between turns, on average.")]
System = Annotated[int, Option(min=0, help="Tokens that all prompts begin with.")]
Seed = Annotated[int, Option(help="Equal seeds give equal runs.")]
Strategy = Annotated[str, Option(help="Of placement.")]
Discipline = Annotated[str, Option(help="Of prefill workers: length_aware, short_first or fcfs.")]
Local = Annotated[bool, Option(help="Whether decode workers may compute prompts too.")]
TtftShort = Annotated[float, Option(help="Objective of short prompts' first token, in seconds.")]
TtftLong = Annotated[float, Option(help="And of long ones'.")]
Tpot = Annotated[float, Option(help="And of each token after.")]


def simulate(
    model: ModelPath,
    gpu: Gpu = "H100",
    prefill: Annotated[int, Option(min=0, help="Workers; 0: aggregated serving.")] = 1,
    prefill_gpus: Annotated[int, Option(min=1, help="Of each.")] = 1,
    decode: Annotated[int, Option(min=1, help="Workers.")] = 1,
    decode_gpus: Annotated[int, Option(min=1, help="Of each.")] = 1,
    steps: Steps = None,
    aiconfigurator: Silicon = None,
    trace: Trace = None,
    lengths: Lengths = ["1000/200"],  # noqa: B006  (typer copies it)
    requests: Annotated[int, Option(min=1, max=10_000_000, help="How many, at most.")] = 1000,
    rate: Rate = None,
    cv: Variation = 1.0,
    speed: Annotated[float, Option(help="How much faster than the trace's times.")] = 1.0,
    turns: Turns = 1.0,
    think: Think = 10.0,
    system_tokens: System = 0,
    strategy: Strategy = DEFAULT_STRATEGY,
    discipline: Discipline = DEFAULT_DISCIPLINE,
    local_prefill: Local = True,
    ttft_short: TtftShort = OBJECTIVES.ttft_short_seconds,
    ttft_long: TtftLong = OBJECTIVES.ttft_long_seconds,
    tpot: Tpot = OBJECTIVES.tpot_seconds,
    seed: Seed = 0,
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
        from lengthwise_cli.simulate.inputs import Inputs
        from lengthwise_cli.simulate.output import RunOutput
        from lengthwise_cli.simulate.run import simulate_once

        output = RunOutput(csv=csv, json=json, plot=plot, chrome_trace=chrome_trace)
        inputs = Inputs(
            model=model, gpu=gpu, steps=steps, aiconfigurator=aiconfigurator,
            trace=trace, lengths=lengths, rate=rate, cv=cv,
            speed=speed, turns=turns, think=think, system_tokens=system_tokens,
            strategy=strategy, discipline=discipline, local_prefill=local_prefill,
            objectives=_objectives(ttft_short, ttft_long, tpot), seed=seed,
        )  # fmt: skip
        shape = (prefill, prefill_gpus, decode, decode_gpus)
        run = simulate_once(inputs, shape, requests, output)
    if not any(journey.ending == "done" for journey in run.journeys):
        raise typer.Exit(1)


def plan(
    model: ModelPath,
    gpus: Annotated[int, Option(min=1, max=64, help="Of one unit; --rate says how many units.")],
    gpu: Gpu = "H100",
    steps: Steps = None,
    aiconfigurator: Silicon = None,
    trace: Trace = None,
    lengths: Lengths = ["1000/200"],  # noqa: B006  (typer copies it)
    rate: Annotated[float | None, Option(help="Requests a second that have to be served.")] = None,
    cv: Variation = 1.0,
    turns: Turns = 1.0,
    think: Think = 10.0,
    system_tokens: System = 0,
    strategy: Strategy = DEFAULT_STRATEGY,
    discipline: Discipline = DEFAULT_DISCIPLINE,
    ttft_short: TtftShort = OBJECTIVES.ttft_short_seconds,
    ttft_long: TtftLong = OBJECTIVES.ttft_long_seconds,
    tpot: Tpot = OBJECTIVES.tpot_seconds,
    attainment: Annotated[
        float, Option(min=0.01, max=1.0, help="Share of the requests that has to meet them.")
    ] = 0.9,
    seconds: Annotated[
        float, Option(min=1.0, max=86_400.0, help="Of arrivals that each rate is tried for.")
    ] = 60.0,
    seed: Seed = 0,
    values: Annotated[
        Path | None, Option(help="Write the chart's values of the best one here.")
    ] = None,
) -> None:
    """Find the deployment with the highest goodput per GPU; say what breaks it first.

    Degrees of tensor parallelism, ratios of prefill to decode workers, and aggregated serving: what
    looks best by arithmetic is simulated at rising rates, with the policies that serve.
    """
    with _simulation_errors():
        from lengthwise_cli.simulate.inputs import Inputs
        from lengthwise_cli.simulate.planning import find_plan

        inputs = Inputs(
            model=model, gpu=gpu, steps=steps, aiconfigurator=aiconfigurator,
            trace=trace, lengths=lengths, rate=None, cv=cv,
            speed=1.0, turns=turns, think=think, system_tokens=system_tokens,
            strategy=strategy, discipline=discipline, local_prefill=True,
            objectives=_objectives(ttft_short, ttft_long, tpot), seed=seed,
        )  # fmt: skip
        find_plan(inputs, gpus, rate=rate, attainment=attainment, seconds=seconds, values=values)


def sweep(
    model: ModelPath,
    out: Annotated[Path, Option(help="CSV of a row per point; points it has are not run again.")],
    rates: Annotated[list[float], Option("--rate", help="Requests a second; repeat for more.")],
    gpu: Gpu = "H100",
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
    seeds: Annotated[int, Option(min=1, max=1000, help="Runs of each, of other arrivals.")] = 1,
    steps: Steps = None,
    aiconfigurator: Silicon = None,
    trace: Trace = None,
    lengths: Lengths = ["1000/200"],  # noqa: B006
    requests: Annotated[int, Option(min=1, max=10_000_000, help="Of each run.")] = 1000,
    cv: Variation = 1.0,
    turns: Turns = 1.0,
    think: Think = 10.0,
    system_tokens: System = 0,
    local_prefill: Local = True,
    ttft_short: TtftShort = OBJECTIVES.ttft_short_seconds,
    ttft_long: TtftLong = OBJECTIVES.ttft_long_seconds,
    tpot: Tpot = OBJECTIVES.tpot_seconds,
    seed: Seed = 0,
    processes: Annotated[int, Option(min=1, max=256, help="That run points at once.")] = 2,
) -> None:
    """Simulate every combination of rates, ratios and policies; write a row for each.

    Ended before its end, it goes on where it was: what the file has is not run again.
    """
    with _simulation_errors():
        from lengthwise_cli.simulate.inputs import Inputs
        from lengthwise_cli.simulate.sweeping import SweepGrid, run_sweep

        inputs = Inputs(
            model=model, gpu=gpu, steps=steps, aiconfigurator=aiconfigurator,
            trace=trace, lengths=lengths, rate=None, cv=cv,
            speed=1.0, turns=turns, think=think, system_tokens=system_tokens,
            strategy=strategies[0], discipline=disciplines[0], local_prefill=local_prefill,
            objectives=_objectives(ttft_short, ttft_long, tpot), seed=seed,
        )  # fmt: skip
        grid = SweepGrid(
            rates=rates, disciplines=disciplines, strategies=strategies, ratios=ratios,
            seeds=range(seed, seed + seeds),
        )  # fmt: skip
        run_sweep(
            inputs, grid, (prefill_gpus, decode_gpus), requests=requests, path=out,
            processes=processes,
        )  # fmt: skip


def tune(
    model: ModelPath,
    rate: Annotated[float, Option(help="Requests a second, near what the deployment stands.")],
    gpu: Gpu = "H100",
    prefill: Annotated[int, Option(min=0, help="Workers; 0: aggregated serving.")] = 1,
    prefill_gpus: Annotated[int, Option(min=1, help="Of each.")] = 1,
    decode: Annotated[int, Option(min=1, help="Workers.")] = 1,
    decode_gpus: Annotated[int, Option(min=1, help="Of each.")] = 1,
    steps: Steps = None,
    aiconfigurator: Silicon = None,
    trace: Trace = None,
    lengths: Lengths = ["1000/200"],  # noqa: B006
    requests: Annotated[int, Option(min=1, max=10_000_000, help="Of each run.")] = 1000,
    seeds: Annotated[int, Option(min=2, max=100, help="Runs of each value, in pairs.")] = 4,
    cv: Variation = 1.0,
    turns: Turns = 1.0,
    think: Think = 10.0,
    system_tokens: System = 0,
    strategy: Strategy = DEFAULT_STRATEGY,
    discipline: Discipline = DEFAULT_DISCIPLINE,
    local_prefill: Local = True,
    ttft_short: TtftShort = OBJECTIVES.ttft_short_seconds,
    ttft_long: TtftLong = OBJECTIVES.ttft_long_seconds,
    tpot: Tpot = OBJECTIVES.tpot_seconds,
    seed: Seed = 0,
    values: Annotated[
        Path | None, Option(help="Write the chart's values of what is better here.")
    ] = None,
) -> None:
    """Find better batch tokens, shares and windows by simulation; tell gain and spread.

    Each value is tried against the best so far on the same workloads; one whose gain is not larger
    than its spread over them is not taken.
    """
    with _simulation_errors():
        from lengthwise_cli.simulate.inputs import Inputs
        from lengthwise_cli.simulate.tuning import find_settings
        from lengthwise_simulator.search.shape import DeploymentShape

        inputs = Inputs(
            model=model, gpu=gpu, steps=steps, aiconfigurator=aiconfigurator,
            trace=trace, lengths=lengths, rate=None, cv=cv,
            speed=1.0, turns=turns, think=think, system_tokens=system_tokens,
            strategy=strategy, discipline=discipline, local_prefill=local_prefill,
            objectives=_objectives(ttft_short, ttft_long, tpot), seed=seed,
        )  # fmt: skip
        shape = DeploymentShape(
            prefill=prefill, prefill_ranks=prefill_gpus, decode=decode, decode_ranks=decode_gpus
        )
        find_settings(inputs, shape, rate=rate, requests=requests, seeds=seeds, values=values)


def _objectives(ttft_short: float, ttft_long: float, tpot: float) -> Objectives:
    try:
        return Objectives(
            ttft_short_seconds=ttft_short, ttft_long_seconds=ttft_long, tpot_seconds=tpot
        )
    except ValueError as error:
        raise CommandError(str(error)) from error


@contextmanager
def _simulation_errors() -> Iterator[None]:
    from lengthwise_checkpoint.errors import CheckpointError
    from lengthwise_simulator.errors import SimulationError

    try:
        yield
    except (SimulationError, CheckpointError) as error:
        raise CommandError(str(error)) from error


COMMANDS: tuple[Callable[..., Any], ...] = (simulate, plan, sweep, tune)

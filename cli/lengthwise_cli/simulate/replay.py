"""The command that plays a simulation's workload against a live deployment."""

from pathlib import Path
from typing import Annotated

from typer import Option

from lengthwise._grpc.channel import DEFAULT_ENDPOINT
from lengthwise_cli import options as option
from lengthwise_cli.bench.load import Load
from lengthwise_cli.bench.output import Output
from lengthwise_cli.bench.plan import MAX_REQUESTS, PlannedRequest
from lengthwise_cli.bench.run import Run
from lengthwise_cli.errors import CommandError
from lengthwise_cli.simulate.option_groups import (
    ObjectiveOptions,
    RecordedRateOptions,
    WorkloadOptions,
    with_groups,
)
from lengthwise_simulator.errors import SimulationError
from lengthwise_simulator.workload.planned import ArrivingRequest, turns


@with_groups
def replay(
    workload: WorkloadOptions,
    recorded: RecordedRateOptions,
    objectives: ObjectiveOptions,
    endpoint: option.Endpoints = [DEFAULT_ENDPOINT],  # noqa: B006  (typer copies it)
    model: option.ModelName = None,
    requests: Annotated[int, Option(min=1, max=MAX_REQUESTS, help="How many, at most.")] = 1000,
    max_in_flight: option.MaxInFlight = 1024,
    timeout: option.RequestSeconds = 120.0,
    csv: option.RequestRows = None,
    json: Annotated[Path | None, Option(help="Write the summary here.")] = None,
    plot: option.Picture = None,
    against: Annotated[
        Path | None, Option(help="What --csv of simulate wrote of the same workload, or of replay.")
    ] = None,
    tls_authority: option.Authority = None,
    tls_certificate: option.Certificate = None,
    tls_private_key: option.PrivateKey = None,
) -> None:
    """Play what simulate plays, with the same options, against a live deployment.

    Prompts share their beginnings as those of the trace do; a conversation's next turn follows the
    reply to the one before.
    """
    output = Output(objectives.objectives(), csv, plot, json)
    before = Run.read(against) if against is not None else None
    load = Load(
        plan=_plan(workload, recorded, requests), seed=workload.seed,
        max_in_flight=max_in_flight, timeout=timeout, endpoints=endpoint, model=model,
        tls=option.make_tls(tls_authority, tls_certificate, tls_private_key),
    )  # fmt: skip
    run, is_whole = load.run()
    output.end(run, before, is_whole=is_whole)


def _plan(
    workload: WorkloadOptions, recorded: RecordedRateOptions, most: int
) -> list[PlannedRequest]:
    """Errors: CommandError, OSError."""
    from lengthwise_cli.simulate.inputs import Workload

    try:
        coming = Workload(**vars(workload), **vars(recorded)).requests(most)
    except SimulationError as error:
        raise CommandError(str(error)) from error
    return [_planned(each) for each in coming]


def _planned(request: ArrivingRequest) -> PlannedRequest:
    planned: PlannedRequest | None = None
    for turn in reversed(list(turns(request))):
        planned = PlannedRequest(
            due_at=turn.arrived_at,
            prompt_tokens=turn.prompt_tokens,
            output_tokens=turn.output_tokens,
            text=turn.text,
            think_seconds=turn.think_seconds,
            follow_up=planned,
        )
    assert planned is not None
    return planned

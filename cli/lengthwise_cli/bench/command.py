"""The command that measures a deployment under load."""

from pathlib import Path
from typing import Annotated

from typer import Option

from lengthwise._grpc.channel import DEFAULT_ENDPOINT
from lengthwise_cli import options as option
from lengthwise_cli.bench.load import Load
from lengthwise_cli.bench.output import Output
from lengthwise_cli.bench.plan import MAX_REQUESTS, plan_requests
from lengthwise_cli.bench.run import Run
from lengthwise_cli.errors import CommandError
from lengthwise_policy.objectives import Objectives

OBJECTIVES = Objectives()


def bench(
    endpoint: option.Endpoints = [DEFAULT_ENDPOINT],  # noqa: B006  (typer copies it)
    model: option.ModelName = None,
    rate: Annotated[
        float | None, Option(help="Requests a second, at random; not given: 5, or as a trace says.")
    ] = None,
    requests: Annotated[int, Option(min=1, max=MAX_REQUESTS, help="How many.")] = 100,
    lengths: Annotated[
        list[str],
        Option(
            metavar="PROMPT/OUTPUT",
            help="Tokens; FROM-TO/OUTPUT for a range; with xWEIGHT; repeat for a mix.",
        ),
    ] = ["128/32"],  # noqa: B006  (typer copies it)
    trace: Annotated[
        Path | None, Option(help="CSV of arrived_at, prompt_tokens, output_tokens; or Azure's.")
    ] = None,
    seed: Annotated[int, Option(help="Equal seeds give equal requests.")] = 0,
    max_in_flight: option.MaxInFlight = 1024,
    timeout: option.RequestSeconds = 120.0,
    ttft_short: Annotated[
        float, Option(help="Objective for the first token of short prompts, in seconds.")
    ] = OBJECTIVES.ttft_short_seconds,
    ttft_long: Annotated[float, Option(help="And of long ones.")] = OBJECTIVES.ttft_long_seconds,
    tpot: Annotated[float, Option(help="And for each token after.")] = OBJECTIVES.tpot_seconds,
    csv: option.RequestRows = None,
    plot: option.Picture = None,
    read: Annotated[
        Path | None, Option("--from", help="Load nothing: show a run that --csv wrote.")
    ] = None,
    against: Annotated[
        Path | None, Option(help="Compare with a run that --csv wrote before.")
    ] = None,
    tls_authority: option.Authority = None,
    tls_certificate: option.Certificate = None,
    tls_private_key: option.PrivateKey = None,
) -> None:
    """Load a deployment at a rate; tell percentiles and goodput.

    Requests are random tokens, sent when they are due whatever became of those before (an open
    loop). Goodput counts the requests that met every objective.
    """
    output = Output(_objectives(ttft_short, ttft_long, tpot), csv, plot)
    before = Run.read(against) if against is not None else None
    if read is not None:
        run, is_whole = Run.read(read), True
    else:
        load = Load(
            plan=plan_requests(lengths, trace, rate=rate, num_requests=requests, seed=seed),
            seed=seed, max_in_flight=max_in_flight, timeout=timeout, endpoints=endpoint,
            model=model, tls=option.make_tls(tls_authority, tls_certificate, tls_private_key),
        )  # fmt: skip
        run, is_whole = load.run()
    output.end(run, before, is_whole=is_whole)


def _objectives(ttft_short: float, ttft_long: float, tpot: float) -> Objectives:
    """Errors: CommandError."""
    try:
        return Objectives(
            ttft_short_seconds=ttft_short, ttft_long_seconds=ttft_long, tpot_seconds=tpot
        )
    except ValueError as error:
        raise CommandError(str(error)) from error

"""The command that takes the costs that running workers have fitted, for simulations of them."""

import urllib.request
from collections.abc import Sequence
from dataclasses import asdict
from http.client import HTTPException
from pathlib import Path
from typing import Annotated

from prometheus_client.parser import text_string_to_metric_families
from typer import Argument, Option

from lengthwise_cli.errors import CommandError
from lengthwise_simulator.cost.running import ROLES, RunningCosts, Sample
from lengthwise_simulator.errors import SimulationError

ANSWER_SECONDS = 10.0
MOST_BYTES = 16 << 20


def calibrate(
    worker: Annotated[list[str], Argument(help="Where workers' metrics are, host:port.")],
    out: Annotated[Path, Option(help="Write them here, for --steps of simulate.")],
) -> None:
    """Take what running workers have fitted to their own steps, for simulate, plan and tune.

    A worker of each role tells most; of several alike the middle one counts.
    """
    try:
        costs = RunningCosts.of_metrics([(name, _metrics(name)) for name in worker])
    except SimulationError as error:
        raise CommandError(str(error)) from error
    costs.write(out)
    for role in ROLES:
        coefficients: Sequence[tuple[str, float]] = [*asdict(getattr(costs, role)).items()]
        told = ", ".join(
            f"{name.removesuffix('_seconds')} {x * 1e6:.4g}" for name, x in coefficients
        )
        print(f"{role}, in us: {told}")


def _metrics(address: str) -> list[Sample]:
    """Errors: CommandError."""
    try:
        with urllib.request.urlopen(f"http://{address}/metrics", timeout=ANSWER_SECONDS) as answer:
            text = answer.read(MOST_BYTES).decode("utf-8", "replace")
        families = text_string_to_metric_families(text)
        return [(each.name, each.labels, each.value) for one in families for each in one.samples]
    except (OSError, HTTPException, ValueError) as error:
        raise CommandError(f"{address}: expected a worker's metrics, got {error}") from error

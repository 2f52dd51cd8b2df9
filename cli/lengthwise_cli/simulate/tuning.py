"""Tuning: what was tried, with its gain, and the values to install."""

from dataclasses import replace
from pathlib import Path

from rich.text import Text

from lengthwise_cli.errors import check_target
from lengthwise_cli.simulate.inputs import Inputs, check_rate
from lengthwise_cli.terminal import Column, fit_encoding, fitted, harmless, make_console, say
from lengthwise_simulator.cluster.simulation import Simulation
from lengthwise_simulator.cluster.spec import ClusterPolicies
from lengthwise_simulator.results import RunSummary
from lengthwise_simulator.search.shape import DeploymentShape
from lengthwise_simulator.search.tune import KNOBS, TunedChoice, tune

TRIED = (
    Column("setting", is_number=False),
    Column("value"),
    Column("in time, points"),
    Column("±", rank=1),
    Column("taken", is_number=False, rank=2),
)


def find_settings(
    inputs: Inputs, shape: DeploymentShape, *, rate: float, requests: int, seeds: int,
    values: Path | None,
) -> None:  # fmt: skip
    """Errors: CommandError, SimulationError."""
    check_rate(rate)
    check_target("--values", values)
    model = inputs.model_on_gpus()
    rows = inputs.fitting_rows(model.spec.context_length)

    def run(policies: ClusterPolicies, seed: int) -> RunSummary:
        workload = replace(inputs, seed=seed).requests_at(rows, rate, requests)
        return RunSummary.of(Simulation(model.cluster(shape, policies, seed), workload).run())

    before = after = inputs.policies()
    tried: list[TunedChoice] = []
    for choice, best in tune(before, run, range(inputs.seed, inputs.seed + seeds)):
        tried.append(choice)
        after = best
        say(f"{choice.knob.role}.{choice.knob.name} {choice.value:g}: {choice.gain * 100:+.2f}")
    console = make_console()
    console.print(fitted(TRIED, [_row(choice) for choice in tried], console))
    text = tuned_values(before, after)
    if not text:
        say("nothing that was tried is better by more than its spread: the settings stay")
    elif values is not None:
        values.write_text(text, encoding="utf-8")
    else:
        told = fit_encoding(harmless(f"values for the chart:\n{text}"), console.file)
        console.print(Text(told))


def _row(choice: TunedChoice) -> tuple[str, ...]:
    return (
        f"{choice.knob.role}.{choice.knob.name}",
        f"{choice.value:g}",
        f"{choice.gain * 100:+.2f}",
        f"{choice.spread * 100:.2f}",
        "yes" if choice.is_taken else "",
    )


def tuned_values(before: ClusterPolicies, after: ClusterPolicies) -> str:
    """The chart's values of what has changed; empty where nothing has."""
    lines = []
    for role in ("prefill", "decode"):
        changed = [
            f"        {knob.name}: {knob.get(after):g}"
            for knob in KNOBS
            if knob.role == role and knob.get(after) != knob.get(before)
        ]
        if changed:
            lines += [f"  - name: {role}", f"    role: {role}", "    config:", "      policy:"]
            lines += changed
    return "\n".join(["pools:", *lines]) + "\n" if lines else ""

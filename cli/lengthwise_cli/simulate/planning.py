"""A plan: the shapes that were simulated, and the values to install the best."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.text import Text

from lengthwise_cli.errors import CommandError, check_target
from lengthwise_cli.simulate.inputs import Inputs, check_rate
from lengthwise_cli.terminal import Column, fit_encoding, fitted, harmless, make_console, say
from lengthwise_policy.objectives import Objectives
from lengthwise_simulator.search.plan import PlannedShape, gpus_needed, plan
from lengthwise_simulator.search.shape import DeploymentShape
from lengthwise_simulator.workload.planned import ArrivingRequest

LEAST_REQUESTS = 200

SHAPES = (
    Column("shape", is_number=False),
    Column("GPUs", rank=2),
    Column("requests/s"),
    Column("per GPU"),
    Column("TTFT p90, ms", rank=1),
    Column("TPOT p90, ms", rank=1),
    Column("breaks first", is_number=False, rank=3),
)


def find_plan(
    inputs: Inputs,
    gpus: int,
    *,
    rate: float | None,
    attainment: float,
    seconds: float,
    values: Path | None,
) -> None:
    if rate is not None:
        check_rate(rate)
    check_target("--values", values)
    model, policies = inputs.model_on_gpus(), inputs.policies()
    rows = inputs.fitting_rows(model.spec.context_length)

    def workload(at_rate: float) -> Sequence[ArrivingRequest]:
        number = max(LEAST_REQUESTS, round(at_rate * seconds))
        return inputs.requests_at(rows, at_rate, number)

    planned = plan(
        model, gpus, workload, policies,
        attainment=attainment, seed=inputs.seed,
        on_planned=lambda each: say(f"{each.shape}: {each.stood.rate:,.2f} requests/s"),
    )  # fmt: skip
    best = planned[0]
    console = make_console()
    _show(planned, console, f"{model.gpu_name}, {attainment:.0%} in time")
    if not best.stood.rate:
        raise CommandError(
            "no shape meets the objectives at any rate: loosen them, or use faster GPUs"
        )
    shape = best.shape if rate is None else gpus_needed(best, rate)
    if rate is not None:
        _line(console, f"{rate:g} requests/s need {shape.gpus} {model.gpu_name}: {shape}")
    text = values_of(shape, inputs.objectives)
    if values is not None:
        values.write_text(text, encoding="utf-8")
    else:
        _line(console, f"values for the chart:\n{text}")


def _show(planned: Sequence[PlannedShape], console: Console, what: str) -> None:
    best = planned[0]
    console.print(fitted(SHAPES, [_row(each) for each in planned], console))
    split = next((each for each in planned if not each.shape.is_aggregated), None)
    whole = next((each for each in planned if each.shape.is_aggregated), None)
    _line(console, f"best: {best.shape}: {best.per_gpu:,.3f} requests/s per {what}")
    if split is None or whole is None or not split.per_gpu or not whole.per_gpu:
        return
    if best.shape.is_aggregated:
        gain = whole.per_gpu / split.per_gpu - 1
        _line(console, f"aggregated serving wins, by {gain:.0%}: prefill workers do not pay here")
    else:
        gain = split.per_gpu / whole.per_gpu - 1
        _line(console, f"disaggregation wins over aggregated serving by {gain:.0%}")


def _row(planned: PlannedShape) -> tuple[str, ...]:
    cells = [str(planned.shape), str(planned.shape.gpus), f"{planned.stood.rate:,.2f}"]
    cells.append(f"{planned.per_gpu:,.3f}")
    summary = planned.stood.summary
    if summary is None:
        return (*cells, "", "", planned.limit)
    whole = summary.classes[-1]
    ttft, tpot = whole.ttft_seconds[1] * 1e3, whole.tpot_seconds[1] * 1e3
    return (*cells, f"{ttft:,.0f}", f"{tpot:,.1f}", planned.limit)


def _line(console: Console, text: str) -> None:
    console.print(Text(fit_encoding(harmless(text), console.file)))


def values_of(shape: DeploymentShape, objectives: Objectives) -> str:
    """The chart's values of a shape; model, image and memory are the installer's."""
    pools = [("prefill", shape.prefill, shape.prefill_ranks)] if shape.prefill else []
    pools.append(("decode", shape.decode, shape.decode_ranks))
    lines = [
        "objectives:",
        f"  ttft_short_seconds: {objectives.ttft_short_seconds:g}",
        f"  ttft_long_seconds: {objectives.ttft_long_seconds:g}",
        f"  tpot_seconds: {objectives.tpot_seconds:g}",
        "poolDefaults:",
        "  device: cuda",
        "pools:",
    ]
    for role, count, ranks in pools:
        lines += [
            f"  - name: {role}",
            f"    role: {role}",
            f"    replicas: {count}",
            f"    config: {{tensor_parallel_size: {ranks}}}",
            f"    resources: {{limits: {{nvidia.com/gpu: {ranks}}}}}",
        ]
    return "\n".join(lines) + "\n"

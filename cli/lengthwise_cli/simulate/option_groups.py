"""Options that several commands have, in groups: a command that takes a group has its options."""

from collections.abc import Callable
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass
from functools import wraps
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import Annotated, Any, get_type_hints

from typer import Option

from lengthwise_cli.errors import CommandError
from lengthwise_policy.objectives import Objectives
from lengthwise_policy.placement.strategies import DEFAULT_STRATEGY
from lengthwise_policy.prefill.policy import PrefillPolicy

DEFAULTS = Objectives()
DEFAULT_DISCIPLINE = PrefillPolicy().discipline


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """What is simulated, and on what."""

    model: Annotated[Path, Option(help="Checkpoint folder, of which config.json is read alone.")]
    gpu: Annotated[str, Option(help="B200, H200, H100, A100, A100-40GB, L40S or L4.")] = "H100"
    steps: Annotated[
        Path | None,
        Option(
            help="In place of calculated times: a CSV of steps that were measured, or the .json of"
            " calibrate."
        ),
    ] = None
    aiconfigurator: Annotated[
        Path | None,
        Option(
            metavar="FILE",
            help="Step times by the tables of an aiconfigurator, kept in this file; where it is not"
            " there, the Python that AICONFIGURATOR names is asked.",
        ),
    ] = None


@dataclass(frozen=True, kw_only=True)
class ShapeOptions:
    """Of a deployment."""

    prefill: Annotated[int, Option(min=0, help="Workers; 0: aggregated serving.")] = 1
    prefill_gpus: Annotated[int, Option(min=1, help="Of each.")] = 1
    decode: Annotated[int, Option(min=1, help="Workers.")] = 1
    decode_gpus: Annotated[int, Option(min=1, help="Of each.")] = 1


@dataclass(frozen=True, kw_only=True)
class WorkloadOptions:
    """What arrives, but at which rate."""

    trace: Annotated[
        Path | None,
        Option(help="Of Azure, BurstGPT, Mooncake, or CSV of prompt and output tokens."),
    ] = None
    lengths: Annotated[
        list[str],
        Option(metavar="PROMPT/OUTPUT", help="Without a trace; as for bench: 64-512/32x9."),
    ] = field(default_factory=lambda: ["1000/200"])
    cv: Annotated[float, Option(help="Of the gaps between arrivals; 1: Poisson, more: bursts.")] = (
        1.0
    )
    turns: Annotated[
        float, Option(min=1.0, help="Of a conversation, on average; their history is cached.")
    ] = 1.0
    think: Annotated[float, Option(min=0.0, help="Seconds between turns, on average.")] = 10.0
    system_tokens: Annotated[int, Option(min=0, help="Tokens that all prompts begin with.")] = 0
    seed: Annotated[int, Option(help="Equal seeds give equal runs.")] = 0


@dataclass(frozen=True, kw_only=True)
class RecordedRateOptions:
    """As a trace says, or another rate."""

    rate: Annotated[
        float | None, Option(help="Requests a second, in place of the trace's times; else 5.")
    ] = None
    speed: Annotated[float, Option(help="How much faster than the trace's times.")] = 1.0


@dataclass(frozen=True, kw_only=True)
class PolicyOptions:
    """Which policies serve."""

    strategy: Annotated[str, Option(help="Of placement.")] = DEFAULT_STRATEGY
    discipline: Annotated[
        str, Option(help="Of prefill workers: length_aware, short_first or fcfs.")
    ] = DEFAULT_DISCIPLINE
    local_prefill: Annotated[
        bool, Option(help="Whether decode workers may compute prompts too.")
    ] = True


@dataclass(frozen=True, kw_only=True)
class ObjectiveOptions:
    """What goodput counts."""

    ttft_short: Annotated[
        float, Option(help="Objective of short prompts' first token, in seconds.")
    ] = DEFAULTS.ttft_short_seconds
    ttft_long: Annotated[float, Option(help="And of long ones'.")] = DEFAULTS.ttft_long_seconds
    tpot: Annotated[float, Option(help="And of each token after.")] = DEFAULTS.tpot_seconds

    def objectives(self) -> Objectives:
        """Errors: CommandError."""
        try:
            return Objectives(
                ttft_short_seconds=self.ttft_short,
                ttft_long_seconds=self.ttft_long,
                tpot_seconds=self.tpot,
            )
        except ValueError as error:
            raise CommandError(str(error)) from error


def with_groups(command: Callable[..., None]) -> Callable[..., None]:
    """The command with the fields of its groups, which are dataclasses, in their places."""
    groups: dict[str, type] = {}
    options: list[Parameter] = []
    for parameter in signature(command, eval_str=True).parameters.values():
        kind = parameter.annotation
        if is_dataclass(kind) and isinstance(kind, type):
            groups[parameter.name] = kind
            hints = get_type_hints(kind, include_extras=True)
            options += [_option(each, hints[each.name]) for each in fields(kind)]
        else:
            options.append(parameter.replace(kind=Parameter.KEYWORD_ONLY))
    flat = Signature(options)

    @wraps(command)
    def called(**given: Any) -> None:
        bound = flat.bind(**given)
        bound.apply_defaults()
        values = dict(bound.arguments)
        for name, kind in groups.items():
            values[name] = kind(**{each.name: values.pop(each.name) for each in fields(kind)})
        command(**values)

    called.__signature__ = flat  # type: ignore[attr-defined]
    called.__annotations__ = {each.name: each.annotation for each in options}
    return called


def _option(part: "Field[Any]", annotation: object) -> Parameter:
    default: Any = Parameter.empty
    if part.default is not MISSING:
        default = part.default
    elif part.default_factory is not MISSING:
        default = part.default_factory()
    return Parameter(part.name, Parameter.KEYWORD_ONLY, default=default, annotation=annotation)

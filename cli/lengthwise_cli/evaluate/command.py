"""The command that measures a mode of a model beside the full model."""

from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from lengthwise_cli import options as option
from lengthwise_cli.errors import CommandError
from lengthwise_cli.evaluate.process import EvaluationProcess
from lengthwise_cli.evaluate.report import show
from lengthwise_cli.requests import as_json_text
from lengthwise_cli.terminal import make_console, say
from lengthwise_local.preflight import find_model

QUANTIZATIONS = ("none", "int8", "int4", "fp8")
DTYPES = ("auto", "float32", "bfloat16", "float16")
KV_DTYPES = ("auto", "int8")
DEVICES = ("auto", "cpu", "cuda")


Model = Annotated[
    str | None,
    Argument(
        metavar="MODEL",
        help="Checkpoint folder, .gguf file or hub id; not given: the demo model.",
    ),
]
Texts = Annotated[
    list[Path] | None,
    Option(metavar="FILE", help="Read this too, beside Python's library; repeat for more."),
]
Tokens = Annotated[int, Option(min=2, max=1 << 20, help="Of each text, at most.")]
Context = Annotated[
    int,
    Option(min=2, max=1 << 17, help="Tokens of a piece; each is predicted from those before."),
]
MostKL = Annotated[
    float | None, Option(min=0.0, help="Mean nats per token; not given: the mode's own bound.")
]
MostIncrease = Annotated[float | None, Option(min=0.0, help="As a share: 0.01 is 1 %; likewise.")]
Records = Annotated[
    Path | None, Option(metavar="DIR", help="Where the record goes; workers read it at start.")
]


def evaluate(
    model: Model = None,
    quantization: Annotated[
        str, Option(help="int8, int4, fp8: of weights; none: the other options alone.")
    ] = "int8",
    kv_dtype: Annotated[str, Option(help="auto, int8: of keys and values.")] = "auto",
    text: Texts = None,
    dtype: Annotated[
        str, Option(help="auto, float32, bfloat16, float16: as workers have.")
    ] = "auto",
    full_dtype: Annotated[
        str, Option(help="The same of the full model; auto: as workers would have it.")
    ] = "auto",
    device: Annotated[str, Option(help="auto, cpu or cuda.")] = "auto",
    tokens: Tokens = 8192,
    context: Context = 512,
    most_kl: MostKL = None,
    most_perplexity_increase: MostIncrease = None,
    records: Records = None,
    as_json: option.AsJson = False,
) -> None:
    """Measure what rounding a model's weights costs: perplexity, agreement, KL divergence.

    The rounded model and the full one read the same texts. The record that is written tells
    workers at start whether the mode passed its bounds; exit code 1: it did not.
    """
    request = {
        "model": find_model(model),
        "quantization": _one_of("--quantization", quantization, QUANTIZATIONS),
        "kv_dtype": _one_of("--kv-dtype", kv_dtype, KV_DTYPES),
        "dtype": _one_of("--dtype", dtype, DTYPES),
        "full_dtype": _one_of("--full-dtype", full_dtype, DTYPES),
        "device": _one_of("--device", device, DEVICES),
        "texts": [str(_readable(path)) for path in text or ()],
        "tokens": tokens,
        "context": context,
        "most_kl": most_kl,
        "most_perplexity_increase": most_perplexity_increase,
        "records": None if records is None else str(records.absolute()),
    }
    outcome = EvaluationProcess(request).run()
    if as_json:
        print(as_json_text(outcome))
    else:
        show(outcome, make_console())
    for failure in outcome["failures"]:
        say(f"beyond its bounds: {failure}")
    if outcome["failures"]:
        raise typer.Exit(1)


def _one_of(option_name: str, got: str, expected: tuple[str, ...]) -> str:
    if got not in expected:
        raise CommandError(f"{option_name}: got {got!r}, expected {', '.join(expected)}")
    return got


def _readable(path: Path) -> Path:
    if not path.is_file():
        raise CommandError(f"--text: got {path}, expected a file")
    return path.absolute()

"""A benchmark asks for what was planned, and its numbers are those of its requests."""

import csv
import gzip
import math
from pathlib import Path

import pytest
from cli.conftest import Run
from client.scripted_router import Responses, Router, first, last, words
from rich.console import Console

from lengthwise_cli.bench import report
from lengthwise_cli.bench.plan import PromptLengths, read_trace, synthetic
from lengthwise_cli.bench.run import RequestResult
from lengthwise_cli.bench.run import Run as Results
from lengthwise_cli.bench.texts import PromptTexts
from lengthwise_cli.errors import CommandError
from lengthwise_policy.objectives import Objectives
from lengthwise_simulator.workload.text import TextSpan
from lengthwise_wire.v1 import inference_pb2


def result(**values: object) -> RequestResult:
    defaults: dict[str, object] = {
        "due_at": 0.0, "sent_late": 0.0, "length_class": "short", "prompt_tokens": 64,
        "cached_tokens": 0, "output_tokens": 16, "ttft": 0.1, "tpot": 0.01, "total": 0.25,
        "retries": 0, "error": "",
    }  # fmt: skip
    return RequestResult(**{**defaults, **values})  # type: ignore[arg-type]


def test_requests_come_at_the_rate_and_in_the_mix_that_was_asked_for() -> None:
    kinds = [PromptLengths.parse("64-128/16x9"), PromptLengths.parse("2000/8")]
    plan = synthetic(kinds, rate=10.0, num_requests=4_000, seed=1)
    assert plan == synthetic(kinds, rate=10.0, num_requests=4_000, seed=1)
    assert plan[-1].due_at == pytest.approx(400.0, rel=0.1)
    long = [request for request in plan if request.prompt_tokens == 2_000]
    assert len(long) == pytest.approx(400, rel=0.2)
    assert {request.output_tokens for request in long} == {8}
    short = {request.prompt_tokens for request in plan} - {2_000}
    assert (min(short), max(short)) == (64, 128)


@pytest.mark.parametrize("text", ["", "64", "0/8", "64/0", "128-64/8", "64/8x0", "a/b", "-1/8"])
def test_lengths_that_cannot_be_are_refused(text: str) -> None:
    with pytest.raises(CommandError, match="--lengths: got"):
        PromptLengths.parse(text)


def test_a_trace_is_read_with_its_times_or_at_a_rate(tmp_path: Path) -> None:
    path = tmp_path / "azure.csv.gz"
    with gzip.open(path, "wt") as file:
        file.write("TIMESTAMP,ContextTokens,GeneratedTokens\n")
        file.write("2023-11-16 18:15:46.6805900,374,44\n2023-11-16 18:15:50.6805900,396,109\n")
    plan = read_trace(path, rate=None, num_requests=10, seed=0)
    assert [(each.due_at, each.prompt_tokens, each.output_tokens) for each in plan] == [
        (0.0, 374, 44), (4.0, 396, 109)
    ]  # fmt: skip
    assert len(read_trace(path, rate=5.0, num_requests=1, seed=0)) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("", "expected a column prompt_tokens or ContextTokens", id="empty"),
        pytest.param("prompt_tokens,output_tokens\n1,2\n", "arrived_at .*--rate", id="no times"),
        pytest.param("arrived_at,prompt_tokens,output_tokens\n", "holds no request", id="no rows"),
        pytest.param(
            "arrived_at,prompt_tokens,output_tokens\n0,many,2\n", "line 2: invalid", id="no number"
        ),
    ],
)
def test_a_trace_that_cannot_be_played_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "trace.csv"
    path.write_text(text)
    with pytest.raises(CommandError, match=message):
        read_trace(path, rate=None, num_requests=10, seed=0)


def test_goodput_counts_what_met_every_objective() -> None:
    run = Results((
        result(),
        result(ttft=0.5),
        result(length_class="long", ttft=1.5, total=4.0),
        result(tpot=0.2),
        result(error="Overloaded: full", ttft=0.0, output_tokens=0),
    ))  # fmt: skip
    assert run.seconds == 4.0
    assert run.goodput(Objectives()) == 0.5
    assert run.output_tokens_per_second == 16.0


def test_a_run_is_read_as_it_was_written(tmp_path: Path) -> None:
    run = Results((result(error='a "b", c'), result(length_class="long", ttft=1.25)))
    run.write(tmp_path / "run.csv")
    assert Results.read(tmp_path / "run.csv") == run
    (tmp_path / "run.csv").write_text("a,b\n1,2\n")
    with pytest.raises(CommandError, match="expected a file that --csv of bench"):
        Results.read(tmp_path / "run.csv")


def test_reports_fit_eighty_columns_whatever_the_run_holds() -> None:
    console = Console(width=80, color_system=None)
    runs = [
        Results((result(),)),
        Results((result(error="NoWorkerAvailable: " + "x" * 300, ttft=0.0, output_tokens=0),)),
        Results(tuple(result(ttft=1234.5, tpot=123.4, total=2e3, sent_late=9) for _ in range(99))),
    ]
    with console.capture() as capture:
        for run in runs:
            report.show(run, Objectives(), console)
            report.compare(runs[0], run, Objectives(), console)
    lines = capture.get().splitlines()
    assert max(map(len, lines)) <= 80
    assert "nan" not in capture.get()
    assert not math.isnan(runs[1].seconds)


def test_prompts_are_equal_as_far_as_the_texts_of_a_trace_are() -> None:
    texts = PromptTexts(1000, seed=1)
    shared = (TextSpan(7, 32), TextSpan(8, 32))
    one = texts.token_ids((*shared, TextSpan(9, 32)), 90)
    other = texts.token_ids((*shared, TextSpan(10, 32)), 120)
    assert (len(one), len(other)) == (90, 120)
    assert one[:64] == other[:64]
    assert one[64:] != other[64:90]
    assert texts.token_ids((TextSpan(5, 1),), 40)[:20] == texts.token_ids((TextSpan(5, 1),), 20)
    assert texts.token_ids(shared, 40) == one[:40]
    assert PromptTexts(1000, seed=2).token_ids(shared, 64) != one[:64]


def answer(request: inference_pb2.GenerateRequest, _: object) -> Responses:
    yield first(request)
    yield words(0, "a", "b", "c", "d")
    yield last(4)


@pytest.mark.slow
def test_the_command_loads_a_router_and_writes_what_it_saw(
    router: Router, run: Run, tmp_path: Path
) -> None:
    router.scripts.extend([answer] * 12)
    arguments = ("--rate", "50", "--requests", "12", "--lengths", "20/4", "--lengths", "90/4")
    path, plot = tmp_path / "run.csv", tmp_path / "run.svg"
    outputs = ("--csv", str(path), "--plot", str(plot))
    done = run("bench", "-e", router.address, *arguments, *outputs, COLUMNS="80")
    assert done.returncode == 0, done.stderr
    assert "12 requests" in done.stdout
    assert "12 answered" in done.stdout
    with path.open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 12
    assert {row["prompt_tokens"] for row in rows} <= {"20", "90"}
    assert {row["length_class"] for row in rows if row["prompt_tokens"] == "90"} <= {"long"}
    assert plot.read_text().startswith("<?xml")
    assert {len(each.prompt.token_ids.ids) for each in router.requests} <= {20, 90}
    again = run("bench", "--from", str(path), "--against", str(path))
    assert "1.00" in again.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param(("--rate", "0"), "--rate: got 0", id="rate"),
        pytest.param(("--lengths", "200/8"), "no request fits the context of toy", id="context"),
        pytest.param(("--csv", "/nowhere/a.csv"), "--csv: got /nowhere/a.csv", id="csv"),
        pytest.param(("--plot", "a.bmp"), "ends in .svg, .png", id="plot"),
        pytest.param(("--from", "/nowhere.csv"), "No such file", id="from"),
        pytest.param(("--ttft-short", "-1"), "ttft_short_seconds: expected", id="objective"),
        pytest.param(("--timeout", "0"), "timeout.total: got 0.0", id="timeout"),
    ],
)
def test_what_cannot_be_measured_is_one_line(
    router: Router, run: Run, arguments: tuple[str, ...], message: str
) -> None:
    refused = run("bench", "-e", router.address, *arguments)
    assert refused.returncode == 1
    assert message in refused.stderr
    assert refused.stderr.count("\n") == 1
    assert not router.requests

"""The commands as a user types them."""

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from lengthwise_cli.errors import CommandError
from lengthwise_cli.simulate.command import simulate
from lengthwise_cli.simulate.replay import replay

CONFIG = {
    "model_type": "llama",
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 4,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "vocab_size": 32_000,
    "max_position_embeddings": 8192,
    "torch_dtype": "bfloat16",
    "rms_norm_eps": 1e-5,
}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG))
    return folder


def run(*arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "lengthwise_cli.main", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)


@pytest.mark.slow
def test_a_run_is_told_and_written(model: Path, tmp_path: Path) -> None:
    files = {name: tmp_path / f"run.{name}" for name in ("csv", "json", "svg", "trace")}
    done = run(
        "simulate", "--model", model, "--gpu", "L4", "--requests", "80", "--rate", "20",
        "--lengths", "50-200/10x3", "--lengths", "3000/5", "--turns", "2", "--think", "0.5",
        "--csv", files["csv"], "--json", files["json"], "--plot", files["svg"],
        "--chrome-trace", files["trace"],
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "prefill 1 of 1 GPU, decode 1 of 1 GPU, 2 L4 in all" in done.stdout
    assert "goodput" in done.stdout
    with files["csv"].open() as file:
        rows = list(csv.DictReader(file))
    summary = json.loads(files["json"].read_text())
    assert summary["classes"][-1]["requests"] == len(rows) > 40
    assert {row["ending"] for row in rows} == {"done"}
    events = json.loads(files["trace"].read_text())["traceEvents"]
    assert {event["name"] for event in events} == {"wait", "prefill", "decode"}
    assert files["svg"].read_text().lstrip().startswith("<?xml")


@pytest.mark.slow
def test_a_plan_ends_with_values(model: Path, tmp_path: Path) -> None:
    values = tmp_path / "values.yaml"
    done = run(
        "plan", "--model", model, "--gpu", "L4", "--gpus", "2", "--seconds", "1",
        "--lengths", "2000/20", "--ttft-long", "0.2", "--tpot", "0.005", "--rate", "1000",
        "--values", values,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "1000 requests/s need" in done.stdout
    written = yaml.safe_load(values.read_text())
    assert {pool["role"] for pool in written["pools"]} <= {"prefill", "decode"}
    assert all(pool["replicas"] >= 1 for pool in written["pools"])


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"gpu": "H300"}, "got 'H300', expected one of B200"),
        ({"prefill": 0, "local_prefill": False}, "decode workers that compute no prompts"),
        ({"decode_gpus": 3}, "expected a divisor of the model's 16 heads"),
        ({"lengths": ["0/5"]}, "--lengths: got '0/5'"),
        ({"rate": -1.0}, "rate: got -1"),
        ({"cv": float("nan")}, "variation: got nan"),
        ({"cv": 1e300}, "variation: got 1e+300"),
        ({"rate": 1e-300}, "rate: got 1e-300"),
        ({"lengths": ["99999999999/5"]}, "prompt_tokens: got 99999999999"),
        ({"strategy": "best"}, "expected one of least_loaded"),
        ({"discipline": "best"}, "--discipline: got 'best'"),
        ({"lengths": ["9000/5"]}, "no request fits the context"),
        ({"tpot": 0.0}, "tpot_seconds"),
        ({"plot": Path("a.gif")}, "expected a name that ends in .svg"),
        ({"csv": Path("absent/a.csv")}, "--csv: got absent"),
        ({"model": Path("absent")}, "--model: got absent, expected a checkpoint's folder"),
    ],
)
def test_what_cannot_be_simulated_is_one_line(
    model: Path, options: dict[str, Any], told: str
) -> None:
    with pytest.raises(CommandError) as raised:
        simulate(**{"model": model, "requests": 20, **options})
    assert told in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_damaged_config_is_refused_by_name(model: Path) -> None:
    (model / "config.json").write_text(json.dumps({**CONFIG, "num_hidden_layers": -1}))
    with pytest.raises(CommandError, match=r"config\.json: num_hidden_layers"):
        simulate(model=model)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("prompt_tokens,output_tokens\n12,-3\n", "line 2: output_tokens: got '-3', expected an"),
        ("a,b\n1,2\n", "line 1: got columns a, b, expected"),
        ("arrived_at,prompt_tokens,output_tokens\n5,1,1\n3,1,1\n", "time goes back to -2 s"),
        ("prompt_tokens,output_tokens\n12,3\n", "name a rate of arrivals"),
        ("prompt_tokens,output_tokens\n", "holds no request"),
    ],
)
def test_a_bad_trace_is_one_line_and_nothing_is_sent(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "trace.csv"
    path.write_text(text)
    with pytest.raises(CommandError) as raised:
        replay(trace=path, endpoint=["127.0.0.1:9"])
    assert told in str(raised.value)
    assert str(path) in str(raised.value) or "rate" in told
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"rate": 0.0}, "rate: got 0"),
        ({"speed": 0.0, "trace": True}, "speed: got 0"),
        ({"tpot": -1.0}, "tpot_seconds"),
        ({"json": Path("absent/a.json")}, "--json: got absent"),
        ({"lengths": ["5"]}, "--lengths: got '5'"),
        ({"turns": float("nan")}, "sessions: got nan turns"),
        ({"turns": float("inf")}, "sessions: got inf turns"),
        ({"turns": 2.0, "think": float("nan")}, "nan s between them"),
        ({"turns": 2.0, "think": 1e300}, "1e+300 s between them"),
    ],
)
def test_what_cannot_be_replayed_is_one_line(
    tmp_path: Path, options: dict[str, Any], told: str
) -> None:
    if options.get("trace"):
        options = {**options, "trace": tmp_path / "trace.csv"}
        options["trace"].write_text("arrived_at,prompt_tokens,output_tokens\n5,1,1\n")
    with pytest.raises(CommandError) as raised:
        replay(endpoint=["127.0.0.1:9"], **options)
    assert told in str(raised.value)
    assert "\n" not in str(raised.value)

"""A trace against a live deployment."""

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lengthwise_local import LocalCluster

SHARED = [901, 902, 903]
TRACE: list[dict[str, Any]] = [
    {"timestamp": at * 100, "input_length": tokens, "output_length": 4, "hash_ids": keys}
    for at, (tokens, keys) in enumerate(
        [(1500, SHARED), (700, [17, 18]), (1600, [*SHARED, 904]), (1500, SHARED), (64, [19])]
    )
]


def replay(*arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "lengthwise_cli.main", "replay", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    path = tmp_path / "trace.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in TRACE))
    return path


@pytest.mark.slow
def test_a_trace_is_played_and_told_as_a_simulation_is(
    cluster: LocalCluster, trace: Path, tmp_path: Path
) -> None:
    rows, summary = tmp_path / "live.csv", tmp_path / "live.json"
    simulated = tmp_path / "simulated.csv"
    simulated.write_text(
        "number,arrived_at,prompt_tokens,computed_tokens,output_tokens,length,rule,prefill,decode,"
        "attempts,preemptions,ttft_seconds,tpot_seconds,total_seconds,ending,reason\n"
        "0,0.0,1500,1500,4,long,r,p,d,1,0,0.2,0.005,0.215,done,\n"
        "1,0.1,700,0,0,long,,,,0,0,nan,nan,1.0,refused,too many requests\n"
    )
    done = replay(
        "-e", cluster.endpoint, "--trace", trace, "--csv", rows, "--json", summary,
        "--against", simulated,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "5 requests" in done.stdout
    assert "simulated" in done.stdout
    assert "live" in done.stdout
    with rows.open() as file:
        found = {float(row["due_at"]): row for row in csv.DictReader(file)}
    assert [found[each["timestamp"] / 1e3]["prompt_tokens"] for each in TRACE] == [
        str(each["input_length"]) for each in TRACE
    ]
    told = json.loads(summary.read_text())
    assert told["classes"][-1]["answered"] == 5


@pytest.mark.slow
def test_a_conversation_goes_on_after_its_replies(cluster: LocalCluster, tmp_path: Path) -> None:
    rows = tmp_path / "live.csv"
    done = replay(
        "-e", cluster.endpoint, "--lengths", "100/3", "--requests", "12", "--rate", "20",
        "--turns", "3", "--think", "0.01", "--max-in-flight", "2", "--csv", rows,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    with rows.open() as file:
        prompts = [int(row["prompt_tokens"]) for row in csv.DictReader(file)]
    assert len(prompts) > 4
    assert set(prompts) <= {100 + 103 * turn for turn in range(40)}
    assert max(prompts) > 100

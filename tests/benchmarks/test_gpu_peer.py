"""The times of a peer that another Python knows, beside ours."""

import json
import stat
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="Triton is not installed")
from gpu.aims import ENGINE, summary
from gpu.measurement import Measurement
from gpu.peer import peer_rows
from gpu.task import Row


def row(op: str, shape: str, milliseconds: float, implementation: str = "lengthwise") -> Row:
    return Measurement(
        op=op, shape=shape, implementation=implementation, milliseconds=[milliseconds], tokens=32
    ).row()


CONFIGS = {"Qwen2.5-7B": {"size": 7}, "tiny": {"size": 0}}
OURS = [
    row("prefill", "Qwen2.5-7B, 4096 tokens", 80.0),
    row("prefill", "Qwen2.5-7B, 4096 tokens", 60.0, "lengthwise fp8"),
    row("decode", "Qwen2.5-7B, 32 rows after 1024", 8.0),
    row("decode", "tiny, 1 rows after 20", 1.0),
    row("short prefill", "Qwen2.5-7B, 8 x 64 tokens", 1.0),
]


def python_that(folder: Path, script: str) -> str:
    program = folder / "python"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return str(program)


def test_the_peer_is_asked_for_each_of_our_shapes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = tmp_path / "asked"
    said = (
        {"version": "0", "steps": [[80.0, 11.0, 0.0]]},
        {"version": "0", "steps": [[6.0, 0, 0.5]]},
    )
    answer = json.dumps([*said, {"error": "no such model"}])
    monkeypatch.setenv(
        "AICONFIGURATOR", python_that(tmp_path, f"cat > {asked}; echo loading; echo '{answer}'")
    )
    rows = peer_rows(OURS, CONFIGS)
    questions = [json.loads(line) for line in asked.read_text().splitlines()]
    assert [(each["config"]["size"], each["steps"]) for each in questions] == [
        (7, [[4096, 0, 0, 0]]),
        (7, [[0, 0, 32, 1024]]),
        (0, [[0, 0, 1, 20]]),
    ]
    assert {(each["system"], each["ranks"]) for each in questions} == {("h200_sxm", 1)}
    assert [(each["shape"], each["p50_ms"]) for each in rows] == [
        ("Qwen2.5-7B, 4096 tokens", 91.0),
        ("Qwen2.5-7B, 32 rows after 1024", 6.5),
    ]
    assert set(rows[0]) == set(OURS[0])
    lines = [line for line in summary({ENGINE: [*OURS, *rows]}) if "operator tables" in line]
    assert ["MISSED" in line for line in lines] == [False, True]


@pytest.mark.parametrize("script", ["echo no module >&2; exit 1", "exec nothing-of-this-name"])
def test_a_peer_that_says_nothing_is_left_out(
    script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AICONFIGURATOR", python_that(tmp_path, script))
    assert peer_rows(OURS, CONFIGS) == []
    monkeypatch.setenv("AICONFIGURATOR", str(tmp_path / "missing"))
    assert peer_rows(OURS, CONFIGS) == []


def test_without_a_peer_its_aims_are_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AICONFIGURATOR", raising=False)
    assert peer_rows(OURS, CONFIGS) == []
    assert not [line for line in summary({ENGINE: OURS}) if "operator tables" in line]

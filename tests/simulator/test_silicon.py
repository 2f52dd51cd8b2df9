"""Step times of an aiconfigurator that another Python has: a stand-in that knows a formula, and
the real one where it is installed."""

import json
import os
import stat
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from simulator.test_commands import CONFIG
from simulator.test_costs import LLAMA_70B

from lengthwise_cli.errors import CommandError
from lengthwise_cli.simulate.command import simulate
from lengthwise_simulator.cost.gpus import find_gpu
from lengthwise_simulator.cost.silicon import GRID, silicon_tables
from lengthwise_simulator.cost.step_tables import StepGrid, StepTables
from lengthwise_simulator.errors import SimulationError
from lengthwise_simulator.search.shape import ModelOnGpus

STAND_IN = """
import json, sys
answers = []
for line in sys.stdin:
    question = json.loads(line)
    ranks = question["ranks"]
    if ranks not in question["config"].get("ranks", [1, 2, 4, 8]):
        answers.append({"error": "ValueError: heads\\ncannot be divided"})
        continue
    steps = [
        [(1 + (new + requests) / 100) / ranks, new * (new / 2 + past) / 1e5,
         requests * context / 1e5]
        for new, past, requests, context in question["steps"]
    ]
    answers.append({"version": "stand-in", "steps": steps})
print("loading")
print(json.dumps(answers))
"""


def runs(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    program = folder / "python"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("AICONFIGURATOR", str(program))
    return program


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Its file of calls."""
    (tmp_path / "stand_in.py").write_text(STAND_IN)
    calls = tmp_path / "calls"
    script = f"echo call >> {calls}; exec {sys.executable} {tmp_path / 'stand_in.py'}"
    runs(tmp_path, script, monkeypatch)
    return calls


def milliseconds(new: int, past: int, requests: int, context: int, ranks: int = 1) -> float:
    """The stand-in's formula."""
    attention = (new * (new / 2 + past) + requests * context) / 1e5
    return (1 + (new + requests) / 100) / ranks + attention


@pytest.mark.parametrize("ranks", [1, 4])
@pytest.mark.parametrize(
    "step",
    [(512, 0, 0, 0), (700, 5000, 0, 0), (3, 1, 0, 0), (0, 0, 1, 64), (0, 0, 77, 3333),
     (1000, 100, 40, 900), (100_000, 0, 0, 0), (100, 200_000, 0, 0), (0, 0, 3000, 200_000)],
)  # fmt: skip
def test_steps_take_what_their_parts_were_measured_to_take(
    tmp_path: Path, stand_in: Path, ranks: int, step: tuple[int, int, int, int]
) -> None:
    new, past, requests, context = step
    tables = silicon_tables(tmp_path / "times.json", CONFIG, "H200")[ranks]
    chunks = [(new, past)] if new else []
    seconds = tables.step_seconds(chunks, requests, requests * context)
    # Prompts longer than the longest that was asked for are drawn on in a straight line.
    within = 0.35 if new > GRID.tokens[-1] else 0.03
    assert seconds * 1e3 == pytest.approx(milliseconds(*step, ranks=ranks), rel=within)
    assert tables.step_seconds([], 0, 0) == 0.0


def test_prompts_of_one_step_share_all_but_attention(tmp_path: Path, stand_in: Path) -> None:
    tables = silicon_tables(tmp_path / "times.json", CONFIG, "H200")[1]
    both = tables.step_seconds([(512, 0), (512, 0)], 0, 0)
    whole = tables.step_seconds([(1024, 0)], 0, 0)
    apart = 2 * tables.step_seconds([(512, 0)], 0, 0)
    assert both < min(whole, apart)


def test_aiconfigurator_is_asked_once_for_a_file(tmp_path: Path, stand_in: Path) -> None:
    path = tmp_path / "times.json"
    first = silicon_tables(path, CONFIG, "H200")
    again = silicon_tables(path, dict(reversed(CONFIG.items())), "H200")
    assert [each.rest for each in again.values()] == [each.rest for each in first.values()]
    assert stand_in.read_text().splitlines() == ["call"]
    assert sorted(each.name for each in tmp_path.iterdir()) == [
        "calls", "python", "stand_in.py", "times.json",
    ]  # fmt: skip
    with pytest.raises(SimulationError, match=r"got step times of H200, expected .* on H100"):
        silicon_tables(path, CONFIG, "H100")
    with pytest.raises(SimulationError, match="got step times of another model on H200"):
        silicon_tables(path, {**CONFIG, "hidden_size": 2048}, "H200")


def test_ranks_without_times_are_left_out_of_plans_and_refused_of_workers(
    tmp_path: Path, stand_in: Path
) -> None:
    tables = silicon_tables(tmp_path / "times.json", {**CONFIG, "ranks": [2, 4]}, "H200")
    model = ModelOnGpus(spec=LLAMA_70B, gpu=find_gpu("H200"), gpu_name="H200", measured=tables.get)
    assert list(model.fitting_ranks(8)) == [2, 4]
    assert model.step_costs(4) == tables[4]
    with pytest.raises(SimulationError, match="got a worker of 8 H200, expected a number of them"):
        model.step_costs(8)
    with pytest.raises(SimulationError, match="no times of this model: ValueError: heads cannot"):
        silicon_tables(tmp_path / "none.json", {**CONFIG, "ranks": []}, "H200")
    assert not (tmp_path / "none.json").exists()


@pytest.mark.parametrize(
    ("script", "told"),
    [
        ("echo no module >&2; exit 1", "(no module); make one: python -m venv"),
        ("exec nothing-of-this-name", "not found"),
        ("exit 3", "(it said nothing)"),
        ("cat > /dev/null", "its answer makes no sense"),
        ("cat > /dev/null; echo '[]'", "its answer makes no sense"),
        ("cat > /dev/null; echo '[1, 2, 3, 4]'", "its answer makes no sense"),
        ("cat > /dev/null; echo '{\"a\": 1}'", "its answer makes no sense"),
        ("cat > /dev/null; echo '[{\"steps\": []}, {}, {}, {}]'", "its answer makes no sense"),
    ],
)
def test_a_python_without_aiconfigurator_is_one_line(
    script: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = runs(tmp_path, script, monkeypatch)
    with pytest.raises(SimulationError) as raised:
        silicon_tables(tmp_path / "times.json", CONFIG, "H200")
    assert f"AICONFIGURATOR: got {program}, expected a Python with" in str(raised.value)
    assert told in str(raised.value)
    assert "\n" not in str(raised.value)


def test_what_is_named_must_be_there_and_known(
    tmp_path: Path, stand_in: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    path = tmp_path / "times.json"
    with pytest.raises(CommandError, match="aiconfigurator: got L4, expected one of B200, H200"):
        simulate(model=tmp_path, gpu="l4", aiconfigurator=path)
    with pytest.raises(CommandError, match="got --steps and --aiconfigurator"):
        simulate(model=tmp_path, steps=path, aiconfigurator=path)
    monkeypatch.setenv("AICONFIGURATOR", str(tmp_path / "missing"))
    with pytest.raises(CommandError, match="missing, expected a Python"):
        simulate(model=tmp_path, aiconfigurator=path)
    monkeypatch.delenv("AICONFIGURATOR")
    with pytest.raises(CommandError, match="No module named 'aiconfigurator'"):
        simulate(model=tmp_path, aiconfigurator=path)
    for odd in (tmp_path / "absent" / "times.json", tmp_path, Path("/dev/zero")):
        with pytest.raises(CommandError, match=f"^{odd}: expected a file, or a name for one"):
            simulate(model=tmp_path, aiconfigurator=odd)


def test_a_run_takes_its_times(
    tmp_path: Path, stand_in: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    json_file = tmp_path / "run.json"
    simulate(
        model=tmp_path, aiconfigurator=tmp_path / "times.json", lengths=["2000/2"], requests=3,
        rate=0.1, json=json_file,
    )  # fmt: skip
    capsys.readouterr()
    ttft = json.loads(json_file.read_text())["classes"][-1]["ttft_seconds"][0] * 1e3
    assert ttft == pytest.approx(milliseconds(2000, 0, 0, 0), rel=0.3)


PARTS = {"rest": [1, 2], "prompts": [[0, 0]] * 2, "decodes": [[0, 0]] * 2}
KEPT = {
    "gpu": "H200", "model": "m", "ranks": {"1": PARTS},
    "grid": {"tokens": [1, 2], "past": [0, 1], "requests": [1, 2], "context": [1, 2]},
}  # fmt: skip


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        ({"grid": {**KEPT["grid"], "past": [0]}}, "past: expected 2 to 200 sizes that rise"),  # type: ignore[dict-item]
        ({"grid": {**KEPT["grid"], "tokens": [2, 1]}}, "tokens: expected 2 to 200"),  # type: ignore[dict-item]
        ({"grid": {**KEPT["grid"], "tokens": [1, 10**30]}}, "tokens: got 1000"),  # type: ignore[dict-item]
        ({"grid": {**KEPT["grid"], "tokens": ["a", "b"]}}, "expected a file of aiconfigurator's"),  # type: ignore[dict-item]
        ({"grid": {**KEPT["grid"], "more": [1, 2]}}, "expected a file of aiconfigurator's"),  # type: ignore[dict-item]
        ({"ranks": {"1": {**PARTS, "rest": [1]}}}, "rest: expected 1 rows of 2 numbers"),
        ({"ranks": {"1": {**PARTS, "rest": [1, -2]}}}, "rest: got -2, expected milliseconds"),
        ({"ranks": {"1": {**PARTS, "rest": [1, float("nan")]}}}, "rest: got nan"),
        ({"ranks": {"1": {**PARTS, "decodes": [[0, 0]]}}}, "decodes: expected 2 rows"),
        ({"ranks": {"1": {**PARTS, "prompts": 5}}}, "expected a file of aiconfigurator's"),
        ({"ranks": {"one": PARTS}}, "expected a file of aiconfigurator's"),
        ({"ranks": 7}, "expected a file of aiconfigurator's"),
        ({"gpu": ["H200"] * 1000}, "another model on ['H200', 'H200', '; name"),
    ],
)
def test_a_damaged_file_is_refused_by_name(
    damage: Mapping[str, Any], told: str, tmp_path: Path
) -> None:
    path = tmp_path / "times.json"
    path.write_text(json.dumps({**KEPT, **damage}))
    refused(path, told)


@pytest.mark.parametrize("text", ["", "[]", "null", "{", "[" * 100_000, "\x00", "7"])
def test_a_file_of_something_else_is_refused_by_name(text: str, tmp_path: Path) -> None:
    path = tmp_path / "times.json"
    path.write_text(text)
    refused(path, "expected a file of aiconfigurator's step times")


def refused(path: Path, told: str) -> None:
    with pytest.raises(SimulationError) as raised:
        silicon_tables(path, CONFIG, "H200")
    assert str(raised.value).startswith(f"{path}: ")
    assert told.removesuffix("; name") in str(raised.value)
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 500 + len(str(path))


def test_a_file_that_is_too_long_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "times.json"
    with path.open("wb") as file:
        os.truncate(file.fileno(), 1 << 40)
    refused(path, "got more than 4,194,304 bytes")


def test_tables_are_of_their_grid() -> None:
    grid = StepGrid(tokens=(1, 4), past=(0, 8), requests=(1, 4), context=(1, 9))
    tables = StepTables(
        grid=grid, rest=(1.0, 7.0), prompts=((2.0, 10.0), (4.0, 12.0)), decodes=((1, 5), (4, 20))
    )
    assert tables.step_seconds([(1, 0)], 0, 0) == pytest.approx(3e-3)
    assert tables.step_seconds([(2, 4)], 0, 0) == pytest.approx((3.0 + 6.0 + 2 / 3) / 1e3)
    assert tables.step_seconds([(4, 16)], 0, 0) == pytest.approx((7.0 + 20.0) / 1e3)
    assert tables.step_seconds([], 4, 36) == pytest.approx((7.0 + 20.0) / 1e3)
    assert tables.step_seconds([(2, 0)], 2, 2) == pytest.approx((7.0 + 2 + 2 / 3 + 2.0) / 1e3)


@pytest.mark.slow
@pytest.mark.skipif("AICONFIGURATOR" not in os.environ, reason="no aiconfigurator is named")
def test_the_real_one_knows_a_llama(tmp_path: Path) -> None:
    """A model of 1.5 GB, read in 0.3 ms of an H200's bandwidth at the least."""
    config = {**CONFIG, "num_hidden_layers": 32, "hidden_size": 2048}
    tables = silicon_tables(tmp_path / "times.json", config, "H200")
    assert set(tables) >= {1, 2}
    for step in (([(4096, 0)], 0, 0), ([], 64, 64_000), ([(512, 1024)], 16, 16_000)):
        assert 1e-4 < tables[2].step_seconds(*step) < tables[1].step_seconds(*step) < 1.0

"""What aiconfigurator answers becomes shapes and rates of ours; it is asked once."""

import json
import stat
from pathlib import Path

import pytest
from simulation.static_plan import PlanSetting, static_plans

SETTING = PlanSetting(
    model="a/b", gpu="H200", gpus=8, prompt=4000, output=500, ttft_seconds=1.0, tpot_seconds=0.02
)
ANSWER = {
    "config": {"model_type": "llama"},
    "best": {
        "agg": {"rate_per_gpu": 0.5, "workers": [0, 1, 2, 4]},
        "disagg": {"rate_per_gpu": 0.75, "workers": [4, 1, 1, 4]},
    },
}


def test_its_answer_becomes_shapes_and_rates_of_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, kept = tmp_path / "asked", tmp_path / "kept.json"
    program = tmp_path / "python"
    program.write_text(f"#!/bin/sh\ncat >> {asked}; echo '{json.dumps([ANSWER])}'\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("AICONFIGURATOR", str(program))
    [plan] = static_plans([SETTING], kept)
    assert static_plans([SETTING], kept) == [plan]
    assert json.loads(asked.read_text()) == {
        "model": "a/b", "system": "h200_sxm", "gpus": 8, "prompt": 4000, "output": 500,
        "ttft_ms": 1000.0, "tpot_ms": 20.0,
    }  # fmt: skip
    assert plan.winner == "disaggregated"
    assert {kind: str(best.shape) for kind, best in plan.best.items()} == {
        "aggregated": "aggregated, 2 of 4 GPUs",
        "disaggregated": "prefill 4 of 1 GPU, decode 1 of 4 GPUs",
    }
    assert plan.best["disaggregated"].rate == pytest.approx(6.0)
    assert plan.best["aggregated"].per_gpu == pytest.approx(0.5)
    with pytest.raises(ValueError, match="answers to other questions"):
        static_plans([SETTING, SETTING], kept)

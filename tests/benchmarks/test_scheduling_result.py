"""How the scheduling benchmark turns what clients saw into numbers and verdicts."""

from pathlib import Path

import pytest
from cpu import CpuUse
from scheduling.arms import BASELINE, LENGTH_AWARE
from scheduling.player import Sample
from scheduling.plot import draw
from scheduling.report import pooled_ratio, ratios, report
from scheduling.result import METRICS, Result
from scheduling.traffic import LengthClass

CPU = CpuUse(client=0.1, cluster=1.5, foreign=0.0)


def sample(
    due_at: float,
    ttft: float,
    length: LengthClass = "short",
    *,
    seconds: float = 0.9,
    new_tokens: int = 50,
) -> Sample:
    """An answer of 10 tokens, `seconds` from the first to the last."""
    return Sample(
        length=length,
        due_at=due_at,
        first_at=due_at + ttft,
        ended_at=due_at + ttft + seconds,
        prompt_tokens=100,
        new_tokens=new_tokens,
        output_tokens=10,
        cached_tokens=48,
        retries=0,
    )


def result(arm: str, repeat: int, *samples: Sample) -> Result:
    return Result(
        repeat=repeat,
        play="multi_turn",
        arm=arm,
        rate=5.0,
        window=(10.0, 20.0),
        cpu=CPU,
        samples=samples,
    )


def test_requests_count_where_they_were_due_and_those_of_the_warm_up_nowhere() -> None:
    found = result("fcfs", 1, sample(9.9, 5.0), sample(10.0, 0.1), sample(19.9, 3.0))
    assert [s.due_at for s in found.measured] == [10.0, 19.9]
    assert found.metrics()["ttft_p50_ms"] == pytest.approx(1550.0)
    assert found.metrics()["tpot_p50_ms"] == pytest.approx(100.0)


@pytest.mark.parametrize(
    ("due_at", "expected"),
    [
        pytest.param(12.0, 60.0, id="within"),
        pytest.param(8.0, 0.0, id="before"),
        pytest.param(9.45, 5.0, id="first token before the window, half of the output in it"),
        pytest.param(19.45, 55.0, id="half of the output after the window"),
        pytest.param(21.0, 0.0, id="after"),
    ],
)
def test_tokens_count_when_they_are_there(due_at: float, expected: float) -> None:
    assert sample(due_at, 0.1).tokens_between(10.0, 20.0) == pytest.approx(expected)


def test_a_class_without_requests_has_no_metric_and_an_empty_cell() -> None:
    found = result("fcfs", 1, sample(11.0, 0.1))
    assert "ttft_long_p99_ms" not in found.metrics()
    row = found.row({"load": 0.7})
    assert row["ttft_long_p99_ms"] == ""
    assert row["cached_share"] == 0.48
    assert set(METRICS) < set(row)


def test_an_empty_window_is_refused() -> None:
    with pytest.raises(ValueError, match="no request in the window"):
        result("fcfs", 1, sample(9.0, 0.1)).metrics()


def test_an_arm_is_compared_with_the_baseline_of_its_own_repeat() -> None:
    results = [
        result(BASELINE.name, 1, sample(11.0, 0.2)),
        result(LENGTH_AWARE.name, 1, sample(11.0, 0.1)),
        result(LENGTH_AWARE.name, 2, sample(11.0, 0.8)),
        result(BASELINE.name, 2, sample(11.0, 0.4)),
    ]
    found = ratios(results, LENGTH_AWARE.name, "ttft_short_p50_ms")
    assert sorted(found) == pytest.approx([0.5, 2.0])
    assert pooled_ratio(results, "ttft_short_p50_ms") == pytest.approx(0.45 / 0.3)
    assert pooled_ratio(results, "tokens_per_second") is None


@pytest.mark.slow  # matplotlib is imported
def test_the_report_names_the_verdict_and_the_plot_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = [
        result(BASELINE.name, 1, sample(11.0, 0.2), sample(12.0, 1.0, "long", new_tokens=900)),
        result(LENGTH_AWARE.name, 1, sample(11.0, 0.1), sample(12.0, 2.0, "long", new_tokens=900)),
    ]
    report(results)
    lines = capsys.readouterr().out.splitlines()
    assert any("ttft_short_p50_ms <= 0.70" in line and " met" in line for line in lines)
    assert any("ttft_long_p99_ms <= 1.10" in line and "not met" in line for line in lines)
    assert "<svg" in draw(results, tmp_path / "plot.svg").read_text()

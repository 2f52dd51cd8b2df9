"""What the summary of `make gpu-check` says of rows."""

import pytest

pytest.importorskip("triton", reason="Triton is not installed")
from gpu.aims import AIMS, of_ceiling, over, summary
from gpu.measurement import Measurement
from gpu.task import Row


def row(op: str, shape: str, implementation: str, milliseconds: float, flops: int = 0) -> Row:
    return Measurement(
        op=op,
        shape=shape,
        implementation=implementation,
        milliseconds=[milliseconds],
        flops=flops,
    ).row()


def laps(setting: str, repeat: int, tokens_per_second: float) -> Row:
    return {
        "concurrency": 128,
        "setting": setting,
        "repeat": repeat,
        "ttft_p50_ms": 250.0,
        "ttft_p99_ms": 480.0,
        "tokens_per_second": tokens_per_second,
        "limit_tokens_per_second": 12_000.0,
        "share_of_limit": tokens_per_second / 12_000,
    }


def test_of_several_rivals_the_best_counts() -> None:
    rows = [
        row("prefill_attention", "8192 causal", "lengthwise", 2.0),
        row("prefill_attention", "8192 causal", "sdpa flash", 5.0),
        row("prefill_attention", "8192 causal", "sdpa cudnn", 3.0),
        row("prefill_attention", "8192 causal", "gather and sdpa", 1.0),
        row("prefill_attention", "16384 causal", "lengthwise", 2.0),  # without a rival
    ]
    (got,) = over("prefill_attention", "sdpa")(rows)
    assert (got.value, got.beside) == (1.5, "sdpa cudnn 3.000 ms")


def test_the_share_of_the_ceiling_is_that_of_ours_in_the_shapes_asked_for() -> None:
    flops = int(790e12 * 1e-3)  # a millisecond
    rows = [
        row("prefill_attention", "32768 causal, 32/8", "lengthwise", 2.0, flops),
        row("prefill_attention", "8192 causal, 32/8", "lengthwise", 4.0, flops),
        row("prefill_attention", "32768 causal, 32/8", "sdpa flash", 8.0, flops),
    ]
    (got,) = of_ceiling("prefill_attention", "32768 causal")(rows)
    assert got.value == pytest.approx(0.5)
    assert got.beside == "ceiling 1.000 ms"


def test_the_summary_names_what_was_missed_and_what_was_not_measured() -> None:
    kernels = [row("rms_norm", "16384 x 5120", "lengthwise", 1.0)]
    lines = summary({"gpu_kernels": kernels})
    (missed,) = [line for line in lines if line.startswith("rms_norm")]
    assert missed.endswith("MISSED")
    assert (
        sum(line.endswith("not measured") for line in lines)
        == sum(aim.table == "gpu_kernels" for aim in AIMS) - 1
    )


def test_the_summary_is_silent_on_aims_of_parts_that_did_not_run() -> None:
    assert summary({"gpu_questions": [{"case": "captured"}]}) == []
    (header, *aims) = summary({"gpu_laps": []})
    assert header.startswith("aim")
    assert [aim.endswith("not measured") for aim in aims] == [True]


def test_repeats_of_the_sweep_become_a_median() -> None:
    rows = [laps("ours", repeat, tokens) for repeat, tokens in enumerate((3000, 9000, 6000))]
    (line,) = [line for line in summary({"gpu_laps": rows}) if "128 clients, ours" in line]
    assert "0.50" in line
    assert "6000 of 12000 tokens/s" in line

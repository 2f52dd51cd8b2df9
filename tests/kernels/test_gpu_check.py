"""The cases of `make gpu-check`, in small: ours and the rivals compute the same."""

from collections.abc import Iterator

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed")
from gpu.agreement.case import Case, disagreement
from gpu.agreement.kernels import case_groups, cases
from gpu.aims import AIMS
from gpu.check import PARTS, main
from gpu.kernels import AGREEMENT_TABLE, agreement_tasks, rows_of_all
from gpu.scale import FULL, TINY, TINY_SIZES
from gpu.task import Deadline, LeftOut, Row


def test_every_case_runs_and_agrees_with_its_rivals(device: str) -> None:
    seen = set()
    for case in cases(TINY_SIZES, device, torch.float32):
        assert disagreement(case) < 1e-5, f"{case.op} {case.shape}"
        assert case.rivals
        assert case.ceiling_seconds > 0
        seen.add(case.op)
    assert seen == {
        "rms_norm",
        "add_rms_norm",
        "silu_mul",
        "rotate_and_store",
        "pack_blocks",
        "quantise_rows",
        "add_rms_norm_fp8",
        "silu_mul_fp8",
        "scaled_linear",
        "pack_blocks_fp8",
        "sample_tokens",
        "prefill_attention",
        "decode_attention",
        "shared_prefix_attention",
    }


def test_the_ceiling_is_the_slower_of_bytes_and_operations() -> None:
    prompts = case_groups(TINY_SIZES, "cpu", torch.float32)["attention of prompts"]
    (case,) = (case for case in prompts() if "causal" in case.shape)
    # 4 heads of 16, 40 queries that see 1..40 keys: a product and a sum for scores and for values.
    assert case.flops == 4 * 4 * 16 * (40 * 41 // 2)
    assert case.ceiling_seconds == max(case.num_bytes / 4.3e12, case.flops / 790e12)


def _case(op: str) -> Case:
    def run() -> torch.Tensor:
        return torch.zeros(1)

    return Case(op=op, shape="1", ours=run, rivals={}, num_bytes=1)


def test_a_group_of_cases_goes_on_after_one_that_fails() -> None:
    def rows_of(case: Case) -> Iterator[Row]:
        if case.op == "second":
            raise ValueError("wrong numbers")
        yield {"op": case.op}

    names = ("first", "second", "third")
    rows = rows_of_all(lambda: map(_case, names), rows_of, Deadline.after(10))
    assert [next(rows)["op"], next(rows)["op"]] == ["first", "third"]
    with pytest.raises(RuntimeError, match="second 1: ValueError: wrong numbers"):
        next(rows)


def test_a_group_of_cases_out_of_time_says_where_it_stopped() -> None:
    group = rows_of_all(lambda: map(_case, ("first",)), lambda case: iter(()), Deadline.after(-1))
    with pytest.raises(LeftOut, match="first 1"):
        next(group)


def test_the_engine_agrees_with_itself(device: str) -> None:
    (task,) = (task for task in agreement_tasks(TINY) if task.name == "engine")
    assert task.table == AGREEMENT_TABLE
    rows = list(task.run(Deadline.after(60)))
    assert [(row["shape"], row["difference"]) for row in rows] == [("eager", 0.0), ("graphs", 0.0)]


def test_without_a_gpu_it_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert main([]) == 2
    assert "needs an NVIDIA GPU" in capsys.readouterr().err


def test_a_part_that_does_not_exist_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["kernel"])
    assert "no part kernel; there are agreement, kernels" in capsys.readouterr().err


def test_all_parts_together_take_eight_minutes() -> None:
    assert sum(part.weight for part in PARTS.values()) == 480


def test_tasks_of_a_part_are_known_before_anything_is_made() -> None:
    for name, part in PARTS.items():
        names = [task.name for task in part.tasks(FULL)]
        assert len(set(names)) == len(names) > 0, name
    assert {aim.table for aim in AIMS} == {"gpu_kernels", "gpu_engine", "gpu_laps"}

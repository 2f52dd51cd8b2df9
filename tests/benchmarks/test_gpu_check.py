"""The cases of `make gpu-check`, in small: ours and the rivals compute the same."""

from collections.abc import Iterator

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed")
from gpu.agreement.case import Case, disagreement
from gpu.agreement.kernels import case_groups, cases
from gpu.kernels import AGREEMENT_TABLE, agreement_tasks, rows_of_all
from gpu.scale import TINY, TINY_SIZES
from gpu.task import Deadline, Row


@pytest.mark.slow
def test_every_case_runs_and_agrees_with_its_rivals(device: str) -> None:
    seen = set()
    for case in cases(TINY_SIZES, device, torch.float32):
        assert disagreement(case) < 1e-5, f"{case.op} {case.shape}"
        assert case.rivals
        assert case.ceiling_seconds > 0
        seen.add(case.op)
    assert seen == {
        "rms_norm",
        "add_low_rank",
        "add_rms_norm",
        "silu_mul",
        "rotate_and_store",
        "pack_blocks",
        "quantise_rows",
        "add_rms_norm_fp8",
        "silu_mul_fp8",
        "scaled_linear",
        "int4_linear",
        "experts",
        "sample_tokens",
        "prefill_attention",
        "decode_attention",
        "shared_prefix_attention",
        "digest",
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


def test_the_engine_agrees_with_itself(device: str) -> None:
    (task,) = (task for task in agreement_tasks(TINY) if task.name == "engine")
    assert task.table == AGREEMENT_TABLE
    rows = list(task.run(Deadline.after(60)))
    assert [(row["shape"], row["difference"]) for row in rows] == [("eager", 0.0), ("graphs", 0.0)]

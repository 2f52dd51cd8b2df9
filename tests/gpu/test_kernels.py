"""Kernels at the sizes of real models, where registers, shared memory and addresses count.

Kernels are imported by the tests alone: where there is no GPU, `tests/kernels` wants them
interpreted, and the first import decides.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
import torch

if TYPE_CHECKING:
    from gpu.agreement.case import Case

pytestmark = [pytest.mark.gpu, pytest.mark.slow, pytest.mark.timeout(300)]


def _cases() -> Iterator["Case"]:
    from gpu.agreement.case import Sizes
    from gpu.agreement.kernels import cases

    return cases(Sizes(prompts=(8192,)), "cuda", torch.bfloat16)


def test_kernels_agree_with_what_users_would_run() -> None:
    from gpu.agreement.case import disagreement

    for case in _cases():
        assert disagreement(case) < 2e-2, f"{case.op} {case.shape}"


def test_a_captured_kernel_replays_its_result() -> None:
    from gpu.agreement.case import capture

    for case in _cases():
        expected = case.ours()
        graph, result = capture(case.ours)
        result.zero_()
        graph.replay()
        same = torch.equal(result.view(torch.uint8), expected.view(torch.uint8))
        assert same, f"{case.op} {case.shape}"

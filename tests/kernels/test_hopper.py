"""Every kernel compiles to machine code for a Hopper GPU, without one.

What the code needs is read off it: no thread keeps registers in memory, shared memory suffices,
prompts use the matrix units of Hopper, and tensors are read 16 bytes at a time.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

SHARED_BYTES = 227 * 1024


@pytest.fixture(scope="module")
def compiled() -> dict[str, list[dict[str, object]]]:
    """What `kernels.hopper` reports of each case. Triton keeps code by its source for each user, so
    that the next run, of this clone or another, compiles only what changed."""
    triton = pytest.importorskip("triton", reason="Triton is not installed")
    tools = Path(triton.__file__).parent / "backends/nvidia/bin"
    if not ((tools / "ptxas").exists() and (tools / "cuobjdump").exists()):
        pytest.skip(f"this build of Triton has no ptxas and cuobjdump in {tools}")
    environment = {**os.environ, "TRITON_INTERPRET": "0"}
    environment["PYTHONPATH"] = str(Path(__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-m", "kernels.hopper"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, list[dict[str, object]]] = {}
    for line in done.stdout.splitlines():
        kernel = json.loads(line)
        found.setdefault(kernel["case"], []).append(kernel)
    return found


def test_every_kernel_becomes_machine_code(
    compiled: dict[str, list[dict[str, object]]],
) -> None:
    kernels = {str(kernel["kernel"]) for case in compiled.values() for kernel in case}
    source = Path(__file__).parents[2] / "kernels/lengthwise_kernels/gpu"
    written = {
        line.split("(")[0].removeprefix("def ")
        for path in source.rglob("*.py")
        for line in path.read_text(encoding="utf-8").splitlines()
        if line.startswith("def _") and line.split("(")[0].endswith("_kernel")
    }
    assert kernels == written


def test_half_precision_keeps_everything_in_registers_and_shared_memory(
    compiled: dict[str, list[dict[str, object]]],
) -> None:
    for case, kernels in compiled.items():
        for kernel in kernels:
            assert int(str(kernel["shared"])) <= SHARED_BYTES, kernel
            assert kernel["stack"] == 0 or "float32" in case, kernel


def test_prompts_and_all_that_is_invariant_are_multiplied_by_warp_groups(
    compiled: dict[str, list[dict[str, object]]],
) -> None:
    tiles = [
        kernel
        for case, kernels in compiled.items()
        for kernel in kernels
        if kernel["kernel"] in ("_prefill_kernel", "_prefix_kernel", "_split_kernel")
        or "invariant" in case
    ]
    assert len(tiles) > 15
    assert [kernel["wgmma"] for kernel in tiles] == [
        "float32" not in str(kernel["case"]) for kernel in tiles
    ]


def test_what_is_invariant_is_one_code_for_every_number_of_rows_and_all_kinds_of_steps(
    compiled: dict[str, list[dict[str, object]]],
) -> None:
    """With a bias there is another: a projection has one or has none."""
    for case, kernels in compiled.items():
        if case.startswith(("splits", "invariant-linear", "int4-invariant", "low-rank")):
            names = [kernel["kernel"] for kernel in kernels]
            codes = len({kernel["code"] for kernel in kernels})
            assert codes == len(set(names)) + names.count("_linear_kernel") // 5, case
        if case.startswith("invariant-experts"):
            # Into experts and out of them.
            assert len({kernel["code"] for kernel in kernels}) == 2


def test_loops_compute_while_their_next_tiles_are_copied_in_the_widest_pieces(
    compiled: dict[str, list[dict[str, object]]],
) -> None:
    """No loop waits for the copies that it has just issued. Copies are of 16 bytes, and of 4 where
    it is block ids, or scales of 4-bit weights, that are copied; those weights' are of 8."""
    pipelined = [kernel for case, kernels in compiled.items() if "float32" not in case
                 for kernel in kernels if kernel["waits"]]  # fmt: skip
    assert {kernel["kernel"] for kernel in pipelined} == {
        "_decode_kernel", "_prefill_kernel", "_prefix_kernel", "_split_kernel", "_linear_kernel",
        "_down_kernel", "_grouped_linear_kernel", "_int4_kernel",
    }  # fmt: skip
    for kernel in pipelined:
        loops = kernel["waits"]
        assert isinstance(loops, list)
        # Between two splits nothing is left to be copied.
        loops = loops[: 1 if kernel["kernel"] == "_split_kernel" else None]
        assert all(loop and min(loop) > 0 for loop in loops), kernel
        unpaged = ("_linear_kernel", "_grouped_linear_kernel", "_down_kernel")
        sizes = {name: [[16]] for name in unpaged}
        sizes["_int4_kernel"] = [[4, 8, 16], [4, 8]]
        assert kernel["copies"] in sizes.get(str(kernel["kernel"]), [[4, 16]]), kernel


def test_memory_is_read_in_the_widest_pieces(
    compiled: dict[str, list[dict[str, object]]],
) -> None:
    """But what says which experts compute a row, which is little."""
    narrow = [kernel for kernels in compiled.values() for kernel in kernels if not kernel["wide"]]
    assert {kernel["kernel"] for kernel in narrow} == {"_choose_kernel", "_sort_kernel"}


def test_steps_of_other_sizes_need_no_other_code(
    compiled: dict[str, list[dict[str, object]]],
) -> None:
    for launches in (compiled["steps"], compiled["routing"]):
        assert len(launches) == 3 * len({kernel["kernel"] for kernel in launches})
        assert len({kernel["code"] for kernel in launches}) == len(launches) // 3

"""Compiles the kernels as their launchers would launch them on a Hopper GPU, without one.

A program rather than a test: Triton has to be imported without its interpreter. Prints one line of
JSON for each launch: its case, kernel and code, registers and bytes of stack per thread and of
shared memory per program, whether it multiplies matrices with Hopper's own instruction, whether
it reads memory in pieces of 16 bytes, the sizes of its asynchronous copies, and of each of its
loops that issue some, how many may be under way where it waits.

Launchers run unchanged, on tensors without memory (device "meta"). Only what would talk
to a driver is replaced: which GPU there is, and the launch itself.
"""

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import triton
from kernels import hopper_cases
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from lengthwise_kernels.gpu import launch

COPY = r"cp\.async\.c[ag].*, (0x[0-9a-f]+)"


class Hopper:
    """The driver of a GPU that is not there."""

    def get_current_target(self) -> object:
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


def resources(cubin: bytes) -> dict[str, int]:
    """Registers per thread, and bytes of stack (spills lie there) and shared memory."""
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [str(tool), "--dump-resource-usage", file.name]
        said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    found = dict(re.findall(r"(REG|STACK|LOCAL):(\d+)", said.stdout))
    return {"registers": int(found["REG"]), "stack": int(found["STACK"]) + int(found["LOCAL"])}


def waits(ttgir: str) -> list[list[int]]:
    """For each loop that copies into shared memory itself, the copies that may be under way at
    each of its waits."""
    found: list[list[int]] = []
    # Of each open brace, what its region copies and waits for.
    regions: list[tuple[bool, list[str], list[int]]] = []
    for line in ttgir.splitlines():
        loop = re.search(r"\bscf\.(for|while)\b|^\s*} do {", line) is not None
        wait = re.search(r"ttg\.async_wait.*num = (\d+)", line)
        if regions and wait:
            regions[-1][2].append(int(wait[1]))
        if regions and "ttg.async_copy_global_to_local" in line:
            regions[-1][1].append(line)
        code = re.sub(r"{[^{}]*}", "", line.split(" loc(")[0])
        for brace in re.findall(r"[{}]", code):
            if brace == "{":
                regions.append((loop, [], []))
            elif regions:
                is_loop, copies, nums = regions.pop()
                if is_loop and copies:
                    found.append(nums)
    return found


def main(names: list[str]) -> None:
    driver.set_active(Hopper())
    launch.DEVICE_TYPE = "meta"
    launched: list[tuple[str, Any]] = []
    run: Callable[..., Any] = JITFunction.run

    def only_compile(self: Any, *arguments: Any, grid: Any, warmup: bool, **options: Any) -> None:
        kernel = run(self, *arguments, grid=grid, warmup=True, **options)
        launched.append((self.fn.__name__, kernel))

    JITFunction.run = only_compile
    for case in names:
        hopper_cases.CASES[case]()
        for name, kernel in launched:
            ptx: str = kernel.asm["ptx"]
            line = {
                "case": case,
                "kernel": name,
                "code": kernel.hash,
                **resources(kernel.asm["cubin"]),
                "shared": kernel.metadata.shared,
                "waits": waits(kernel.asm["ttgir"]),
                "copies": sorted({int(size, 16) for size in re.findall(COPY, ptx)}),
                "wgmma": "wgmma.mma_async" in ptx,
                "wide": "ld.global.v4.b32" in ptx
                or "ld.global.v2.b64" in ptx
                or ", 0x10" in ptx
                # Nothing but a block's number is read by what only writes.
                or ("st.global.v4.b32" in ptx and "ld.global.v" not in ptx),
            }
            print(json.dumps(line), flush=True)
        launched.clear()


if __name__ == "__main__":
    main(sys.argv[1:] or list(hopper_cases.CASES))

"""The kernels' two parts: first whether they are right, in small, then how fast they are.

A group of cases goes on after one that fails, and fails in the end with what all of them said.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Final

import torch
from random_models.engines import Engine
from random_models.generate import generate, random_prompts
from random_models.models import BLOCK, qwen2, random_model

from gpu.agreement.case import Case, Sizes, disagreement, milliseconds
from gpu.agreement.kernels import case_groups
from gpu.measurement import Measurement, device_columns
from gpu.scale import Scale
from gpu.task import Deadline, LeftOut, Row, Task

TABLE: Final = "gpu_kernels"
AGREEMENT_TABLE: Final = "gpu_agreement"

TOLERANCE: Final = 2e-2
"""Between two results in bfloat16, whose last place is worth 2^-8."""

SHARE_OF_ANSWERS: Final = 0.1
"""Of greedy ones in float32 that may differ between two devices: their matrix products round
differently, and random weights have near ties."""

GroupOfCases = Callable[[], Iterable[Case]]


def agreement_tasks(scale: Scale) -> list[Task]:
    """Every kernel against its rivals, and the engine against itself on the CPU."""
    tasks = [
        Task(name=name, table=AGREEMENT_TABLE, run=partial(rows_of_all, group, _agrees))
        for name, group in _groups(scale.agreement, scale).items()
    ]
    return [
        *tasks,
        Task(name="engine", table=AGREEMENT_TABLE, run=partial(_engine_agrees, scale.device)),
    ]


def kernel_tasks(scale: Scale) -> list[Task]:
    """Every kernel and its rivals at the sizes of real models."""
    return [
        Task(name=name, table=TABLE, run=partial(rows_of_all, group, _measured))
        for name, group in _groups(scale.kernels, scale).items()
    ]


def _groups(sizes: Sizes, scale: Scale) -> Mapping[str, GroupOfCases]:
    return case_groups(sizes, scale.device, scale.dtype)


def rows_of_all(
    group: GroupOfCases, rows_of: Callable[[Case], Iterator[Row]], deadline: Deadline
) -> Iterator[Row]:
    """Rows of each case; RuntimeError in the end if some failed, LeftOut when time is over."""
    torch.manual_seed(0)
    failures = []
    for case in group():
        what = f"{case.op} {case.shape}"
        if deadline.left <= 0:
            raise LeftOut(f"{what} and what follows")
        try:
            yield from rows_of(case)
        except Exception as error:
            failures.append(f"{what}: {type(error).__name__}: {error}")
            print(failures[-1], flush=True)
    if failures:
        raise RuntimeError("; ".join(failures))


def _agrees(case: Case) -> Iterator[Row]:
    # Compiling takes longer than everything else and computes what eager torch does.
    rivals = {name: run for name, run in case.rivals.items() if name != "torch.compile"}
    ratio = disagreement(replace(case, rivals=rivals))
    yield {**device_columns(), "op": case.op, "shape": case.shape, "difference": ratio}
    if ratio > TOLERANCE:
        raise RuntimeError(f"differs from a rival by {ratio:.2g}")


def _measured(case: Case) -> Iterator[Row]:
    if (ratio := disagreement(case)) > TOLERANCE:
        raise RuntimeError(f"differs from a rival by {ratio:.2g}")
    for name, run in {"lengthwise": case.ours, **case.rivals}.items():
        captured = name == "lengthwise" or not case.rivals_ask_the_host
        yield Measurement(
            op=case.op,
            shape=case.shape,
            implementation=name,
            milliseconds=milliseconds(run, captured=captured),
            num_bytes=case.num_bytes,
            flops=case.flops,
            flops_per_second=case.flops_per_second,
        ).row()


def _engine_agrees(device: str, deadline: Deadline) -> Iterator[Row]:
    """Four tokens after prompts of many lengths, in float32; graphs are captured the first time and
    replayed the second."""
    shape = qwen2(hidden=256, inner=384, layers=2, heads=(4, 2), vocab=512)
    prompts = random_prompts([2 + 13 * place for place in range(16)], 512)
    generated = {}
    for name, where, graphs in (
        ("cpu", "cpu", False),
        ("eager", device, False),
        ("graphs", device, True),
    ):
        model = random_model(shape, where, torch.float32, filled_on="cpu")
        cache = model.cache(sum(-(-(len(prompt) + 4) // BLOCK) for prompt in prompts))
        engine = Engine(name=name, model=model, cache=cache)
        for _ in range(2 if graphs else 1):
            rows = generate(
                engine.runner(graphs=graphs),
                prompts,
                4,
                num_blocks=cache.num_blocks,
                step_tokens=2048,
            )
        if graphs:
            engine.require_replays()
        generated[name] = [row.generated for row in rows]
    for name in ("eager", "graphs"):
        pairs = zip(generated[name], generated["cpu"], strict=True)
        differing = sum(one != other for one, other in pairs) / len(prompts)
        yield {**device_columns(), "op": "engine", "shape": name, "difference": differing}
        if differing > SHARE_OF_ANSWERS:
            raise RuntimeError(f"{name}: {differing:.0%} of answers differ from those of the CPU")

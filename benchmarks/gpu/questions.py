"""What nobody could know without a GPU, answered in the first 90 seconds.

Does it compile and run? What do pipelining and launching ahead give, what do sampling and penalties
cost? What do graphs take, also while another process uses the GPU? What do links and ranks do? Each
answer is a number and says what it was presumed to be.
"""

import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final

import torch
from random_models.engines import GRAPH_MEMORY_BYTES, Engine, Engines
from random_models.models import BLOCK
from transfers.kv_transfer import LAYOUT, TransferPair, make_pieces

import lengthwise_engine
from gpu.agreement.case import milliseconds
from gpu.agreement.kernels import case_groups
from gpu.measurement import device_columns, time_steps
from gpu.scale import Scale
from gpu.task import Deadline, LeftOut, Row, Task
from lengthwise_engine.loaded_model import load_runner
from lengthwise_engine.runner.base import ModelRunner, SequenceChunk
from lengthwise_engine.runner.graph_recorder import CudaRecorder
from lengthwise_engine.runner.graph_shapes import GraphPlan
from lengthwise_engine.runner.sampler import SamplingParameters, SamplingState
from lengthwise_engine.runner.torch_runner import TorchRunner

TABLE: Final = "gpu_questions"
PLAN: Final = GraphPlan(memory_bytes=GRAPH_MEMORY_BYTES, rows=(1, 128), prompt_tokens=(64, 1024))
GREEDY: Final = SamplingParameters(temperature=0.0)
AHEAD: Final = 8
SAMPLINGS: Final = {
    "greedy": GREEDY,
    "top-k": SamplingParameters(temperature=0.8, top_k=40, seed=1),
    "top-p": SamplingParameters(temperature=0.8, top_p=0.9, seed=1),
    "both": SamplingParameters(temperature=0.8, top_k=40, top_p=0.9, seed=1),
    "repetition penalty": SamplingParameters(temperature=0.0, repetition_penalty=1.05),
}
NEIGHBOUR: Final = """
import sys, torch
device, parts = sys.argv[1], []
print("ready", flush=True)
for turn in range(10 ** 9):
    parts.append(torch.empty(256 << 20, dtype=torch.uint8, device=device))
    if len(parts) == 8:
        parts.clear()
        if device == "cuda":
            torch.cuda.empty_cache()
"""
"""Takes 2 GiB of the GPU and gives them back, again and again."""


def question_tasks(scale: Scale) -> list[Task]:
    engines = Engines(scale.shapes, scale.device, scale.dtype)
    answers: dict[str, Callable[[Scale, Deadline], Iterator[Row]]] = {
        "compile and run": partial(_compile, engines),
        "pipelining": _pipelining,
        "graphs": partial(_graphs, engines),
        "sampling": partial(_sampling, engines),
        "launching ahead": partial(_ahead, engines),
        "another worker": partial(_neighbour, engines),
        "links": _links,
        "ranks": _ranks,
    }
    return [
        Task(name=name, table=TABLE, run=partial(answer, scale)) for name, answer in answers.items()
    ]


def _row(case: str, value: float, unit: str, presumed: str = "") -> Row:
    return {
        **device_columns(),
        "case": case,
        "value": float(f"{value:.4g}"),
        "unit": unit,
        "presumed": presumed,
    }


def _of(count: int, what: str = "row") -> str:
    return f"{count} {what}{'s' * (count != 1)}"


def _engine(engines: Engines, scale: Scale) -> Engine:
    rows = max(scale.questions_rows)
    return engines.get(scale.questions_model, rows * -(-(scale.questions_history + 1) // BLOCK))


def _compile(engines: Engines, scale: Scale, deadline: Deadline) -> Iterator[Row]:
    runner = _engine(engines, scale).runner(graphs=False)
    yield _row("kernels compiled, first steps", runner.warm_up(), "s", "tens")
    for rows in scale.questions_rows:
        yield _row(f"{_of(rows)}, launched", _step_ms(runner, rows, GREEDY, scale), "ms")


def _pipelining(scale: Scale, deadline: Deadline) -> Iterator[Row]:
    """Attention of a prompt is compiled so that tiles are copied while others are multiplied."""
    sizes = replace(scale.kernels, prompts=scale.kernels.prompts[:1])
    for case in case_groups(sizes, scale.device, scale.dtype)["attention of prompts"]():
        times = milliseconds(case.ours, captured=True)
        share = case.ceiling_seconds * 1e3 / statistics.median(times)
        yield _row(f"prefill attention, {case.shape}", share, "of peak", "0.55 to 0.62")


def _sampling(engines: Engines, scale: Scale, deadline: Deadline) -> Iterator[Row]:
    """What a step takes longer than a greedy one."""
    runner = _engine(engines, scale).runner(graphs=False)
    for rows in scale.questions_rows:
        greedy = _step_ms(runner, rows, GREEDY, scale)
        for name, sampling in SAMPLINGS.items():
            if deadline.left <= 0:
                raise LeftOut(f"{name} at {_of(rows)} and what follows")
            if sampling is not GREEDY:
                more = _step_ms(runner, rows, sampling, scale) - greedy
                yield _row(f"{name}, {_of(rows)}, more than greedy", more, "ms", "0.1 to 0.6")


def _step_ms(runner: ModelRunner, rows: int, sampling: SamplingParameters, scale: Scale) -> float:
    """The median of a decode step's times, all of it waited for."""
    history, each = scale.questions_history, -(-(scale.questions_history + 1) // BLOCK)
    token_ids = [place * 7 % 100 for place in range(history + 1)]
    state = SamplingState(sampling=sampling, token_ids=token_ids, num_prompt_tokens=history // 2)
    chunks = [
        SequenceChunk(
            token_ids=token_ids[-1:],
            start=history,
            block_ids=range(row * each, (row + 1) * each),
            sampling=state,
        )
        for row in range(rows)
    ]
    return statistics.median(time_steps(lambda: runner.run(chunks), scale.repeats))


def _ahead(engines: Engines, scale: Scale, deadline: Deadline) -> Iterator[Row]:
    """What a prefill worker gains by launching a batch before the last one has ended."""
    runner = _engine(engines, scale).runner(graphs=False)
    token_ids = [place * 7 % 100 for place in range(scale.questions_history)]
    state = SamplingState(sampling=GREEDY, token_ids=token_ids, num_prompt_tokens=len(token_ids))
    blocks = range(-(-len(token_ids) // BLOCK))
    chunks = [SequenceChunk(token_ids=token_ids, start=0, block_ids=blocks, sampling=state)]

    def ahead() -> None:
        for step in [runner.launch(chunks) for _ in range(AHEAD)]:
            step.tokens()

    what = f"prompt of {len(token_ids)} tokens"
    alone = statistics.median(time_steps(lambda: runner.run(chunks), scale.repeats))
    yield _row(f"{what}, waited for", alone, "ms")
    together = statistics.median(time_steps(ahead, scale.repeats)) / AHEAD
    yield _row(f"{what}, launched ahead, less", alone - together, "ms", "1 to 3")


def _graphs(engines: Engines, scale: Scale, deadline: Deadline) -> Iterator[Row]:
    engine = _engine(engines, scale)
    free = _free_bytes()
    runner, own_bytes, pool_bytes = _captured(engine)
    counts = runner.counts
    yield _row("captured", counts.graphs, "graphs")
    yield _row("capture", counts.capture_seconds / max(1, counts.graphs), "s a graph", "0.2 to 0.5")
    yield _row("what graphs share", pool_bytes / 2**20, "MiB")
    layers = counts.graphs * engine.model.decoder.spec.num_layers
    kept = (free - _free_bytes() - own_bytes - pool_bytes) / 2**10 / max(1, layers)
    yield _row("what the driver keeps", kept, "KiB a graph and layer", "768")
    for rows in scale.questions_rows:
        yield _row(f"{_of(rows)}, replayed", _step_ms(runner, rows, GREEDY, scale), "ms")


def _captured(engine: Engine) -> tuple[TorchRunner, int, int]:
    """With the bytes of input and output, and of what graphs share. A CPU captures nothing."""
    device = engine.model.decoder.device
    recorder = CudaRecorder(device) if device.type == "cuda" else None
    runner = TorchRunner(engine.model.decoder, engine.cache, recorder=recorder, graphs=PLAN)
    own_bytes = runner.counts.graph_bytes
    runner.capture_graphs()
    return runner, own_bytes, 0 if recorder is None else recorder.pool_bytes()


def _free_bytes() -> int:
    if not torch.cuda.is_available():
        return 0
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    return torch.cuda.mem_get_info()[0]


def _neighbour(engines: Engines, scale: Scale, deadline: Deadline) -> Iterator[Row]:
    """Another process takes memory and gives it back meanwhile: nothing is counted differently."""
    engine = _engine(engines, scale)
    alone = _captured(engine)[0].counts
    other = subprocess.Popen(
        [sys.executable, "-c", NEIGHBOUR, scale.device], stdout=subprocess.PIPE, text=True
    )
    try:
        assert other.stdout is not None
        other.stdout.readline()
        beside = _captured(engine)[0].counts
    finally:
        other.kill()
        other.wait()
    differing = beside.graph_bytes - alone.graph_bytes
    yield _row("graph memory, counted beside another process less alone", differing, "bytes", "0")


def _links(scale: Scale, deadline: Deadline) -> Iterator[Row]:
    for path, shared_memory in (("shared memory", True), ("network", False)):
        began_at = time.perf_counter()
        pair = TransferPair(shared_memory=shared_memory, device=torch.device(scale.device))
        try:
            yield _row(f"{path}, until the link is up", time.perf_counter() - began_at, "s", "5")
            pieces = make_pieces(4 << 20, scale.questions_pieces, "scattered")
            num_bytes = sum(piece.num_bytes(LAYOUT) for piece in pieces)
            pair.seconds(pieces)
            yield _row(path, num_bytes / pair.seconds(pieces) / 1e9, "GB/s")
        finally:
            pair.stop()


def _ranks(scale: Scale, deadline: Deadline) -> Iterator[Row]:
    """The demo model, whose steps are all launches and collectives."""
    if scale.device == "cuda" and torch.cuda.device_count() < 2:
        raise LeftOut("two ranks need two GPUs")
    demo = Path(lengthwise_engine.__file__).parent / "demo_model"
    for size in (1, 2):
        loaded = load_runner(
            demo,
            device=scale.device,
            num_blocks=256,
            tensor_parallel_size=size,
            graphs=replace(PLAN, memory_bytes=1 << 30),
            stall_seconds=20.0,
        )
        try:
            ms = _step_ms(loaded.runner, 1, GREEDY, replace(scale, questions_history=20))
            yield _row(f"{_of(size, 'rank')}, 1 row of the demo model", ms, "ms")
        finally:
            loaded.close()


def lines(rows: Sequence[Row]) -> Iterator[str]:
    """The answers, for people."""
    if rows:
        yield f"{'question':60} {'answer':>10}"
    for row in rows:
        presumed = f"  (presumed {row['presumed']})" if row["presumed"] else ""
        yield f"{row['case']:60} {row['value']:>10} {row['unit']}{presumed}"

"""The engine's steps with random weights: prefill, decode, short prompts with and without graphs.

A prefill is one prompt in one step. Decode steps are launched ahead of their tokens; a step's time
is that between two arrivals of tokens. The ceilings: of a prefill its operations (weights, causal
attention, one row of the head), of a decode step its bytes (weights once, keys and values once).
"""

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import pairwise

from random_models.engines import Engine, Engines
from random_models.generate import decode, place, prefill, random_prompts
from random_models.models import BLOCK, prefill_flops, projection_parameters, step_bytes

from gpu.agreement.case import FLOPS_PER_SECOND
from gpu.measurement import WARM_UPS, Measurement, time_steps
from gpu.scale import Scale
from gpu.task import Deadline, Row, Task
from lengthwise_checkpoint.spec import DecoderSpec, Projections
from lengthwise_engine.runner.base import ModelRunner

TABLE = "gpu_engine"
WARM_UP_STEPS = 4
"""Their times are left out: kernels are compiled and graphs captured in them. So is that of the
last, whose token is read at once after the one before."""


def engine_tasks(scale: Scale) -> list[Task]:
    engines = Engines(scale.shapes, scale.device, scale.dtype)
    tasks = []
    models: list[tuple[str, Projections]] = [(name, "full") for name in scale.engine_models]
    models += [(name, "fp8") for name in scale.fp8_models]
    for name, projections in models:
        full_name = name if projections == "full" else f"{name} {projections}"
        for tokens in scale.prefill_tokens:
            run = partial(_prefill, engines, name, projections, tokens, scale)
            tasks.append(Task(name=f"{full_name} prefill {tokens}", table=TABLE, run=run))
        for batch in scale.decode_batches:
            run = partial(_decode, engines, name, projections, batch, scale)
            tasks.append(Task(name=f"{full_name} decode {batch}", table=TABLE, run=run))
    for name in scale.short_models:
        for count in scale.short_counts:
            run = partial(_short, engines, name, count, scale)
            tasks.append(
                Task(name=f"{name} short {count} x {scale.short_tokens}", table=TABLE, run=run)
            )
    return tasks


def _get(engines: Engines, name: str, scale: Scale, projections: Projections = "full") -> Engine:
    """With the blocks that any task of this part needs."""
    decoding = max(scale.decode_batches) * -(-(scale.decode_context + scale.decode_steps) // BLOCK)
    prefilling = -(-max(scale.prefill_tokens) // BLOCK)
    short = max(scale.short_counts) * -(-scale.short_tokens // BLOCK)
    blocks = max(decoding, prefilling, short) + max(scale.decode_batches)
    return engines.get(name, blocks, projections)


def _implementation(engine: Engine) -> str:
    return "lengthwise" if engine.projections == "full" else f"lengthwise {engine.projections}"


def _prompts_measured(
    engine: Engine, runner: ModelRunner, lengths: Sequence[int], repeats: int
) -> tuple[list[float], int]:
    """Milliseconds of each step with whole prompts, and the operations in one."""
    spec = engine.model.decoder.spec
    prompts = random_prompts(lengths, spec.vocab_size)

    placed = iter(
        [
            place(prompts, 0, block_size=BLOCK, num_blocks=engine.cache.num_blocks)
            for _ in range(WARM_UPS + repeats)
        ]
    )

    def run() -> None:
        prefill(runner, next(placed), sum(lengths) + BLOCK)

    return time_steps(run, repeats), prefill_flops(spec, lengths)


def _prefill(
    engines: Engines,
    name: str,
    projections: Projections,
    tokens: int,
    scale: Scale,
    deadline: Deadline,
) -> Iterator[Row]:
    engine = _get(engines, name, scale, projections)
    times, flops = _prompts_measured(engine, engine.runner(graphs=False), [tokens], scale.repeats)
    yield Measurement(
        op="prefill",
        shape=f"{name}, {tokens} tokens",
        implementation=_implementation(engine),
        milliseconds=times,
        flops=flops,
        flops_per_second=peak_of(engine.model.decoder.spec, [tokens]),
        tokens=tokens,
    ).row()


def _decode(
    engines: Engines,
    name: str,
    projections: Projections,
    batch: int,
    scale: Scale,
    deadline: Deadline,
) -> Iterator[Row]:
    engine = _get(engines, name, scale, projections)
    spec = engine.model.decoder.spec
    steps = scale.decode_steps
    prompts = random_prompts([scale.decode_context] * batch, spec.vocab_size)
    rows = place(prompts, steps, block_size=BLOCK, num_blocks=engine.cache.num_blocks)
    decode(engine.runner(graphs=True), rows, steps)
    engine.require_replays()
    known_at = [max(times) for times in zip(*(row.known_at for row in rows), strict=True)]
    times = [(after - before) * 1e3 for before, after in pairwise(known_at)]
    keys = batch * (scale.decode_context + steps // 2)
    yield Measurement(
        op="decode",
        shape=f"{name}, {batch} rows after {scale.decode_context}",
        implementation=_implementation(engine),
        milliseconds=times[WARM_UP_STEPS:-1],
        num_bytes=step_bytes(spec, keys, engine.model.decoder.dtype.itemsize),
        tokens=batch,
    ).row()


def _short(
    engines: Engines, name: str, count: int, scale: Scale, deadline: Deadline
) -> Iterator[Row]:
    engine = _get(engines, name, scale)
    lengths = [scale.short_tokens] * count
    for implementation, graphs in (("eager", False), ("graphs", True)):
        runner = engine.runner(graphs=graphs)
        times, flops = _prompts_measured(engine, runner, lengths, scale.repeats)
        if graphs:
            engine.require_replays()
        spec = engine.model.decoder.spec
        yield Measurement(
            op="short prefill",
            shape=f"{name}, {count} x {scale.short_tokens} tokens",
            implementation=implementation,
            milliseconds=times,
            num_bytes=step_bytes(spec, 0, engine.model.decoder.dtype.itemsize),
            flops=flops,
            tokens=sum(lengths),
        ).row()


def peak_of(spec: DecoderSpec, lengths: Sequence[int]) -> float:
    """Operations per second that a prefill may reach: products in FP8 run at twice the rate, the
    attention and the head do not."""
    if spec.projections == "full":
        return FLOPS_PER_SECOND
    flops = prefill_flops(spec, lengths)
    projected = 2 * projection_parameters(spec) * sum(lengths)
    return flops / (flops - projected / 2) * FLOPS_PER_SECOND

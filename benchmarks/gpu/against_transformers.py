"""The engine beside `transformers`' continuous batching: the same weights, prompts and GPU.

transformers computes with the engine's own tensors, so that both models fit and neither has better
weights. Prefill is a run of one token each: prompt tokens over the time until the last was known.
Decode begins when every prompt has its first token: tokens known later over the time they took.
Steps of both have at most 8,192 prompt tokens, and both caches hold all prompts; the rest is
decided by transformers itself.
"""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Final

import torch
from random_models.engines import Engine, Engines
from random_models.generate import generate, random_prompts
from random_models.models import BLOCK, RandomModel, prefill_flops, step_bytes

from gpu.measurement import Measurement, finish
from gpu.scale import Scale
from gpu.task import Deadline, LeftOut, Row, Task

TABLE: Final = "gpu_engine"
STEP_TOKENS: Final = 8192
PAGE_TOKENS: Final = 256
"""Of transformers' cache by default; the option's name differs between its versions."""

WAIT_SECONDS: Final = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Generated:
    """Tokens of each prompt, and the seconds from the beginning when each was known."""

    tokens: Sequence[Sequence[int]]
    known_at: Sequence[Sequence[float]]

    @property
    def prefill_seconds(self) -> float:
        return max(times[0] for times in self.known_at)

    @property
    def decode_seconds(self) -> float:
        return max(times[-1] for times in self.known_at) - self.prefill_seconds

    @property
    def num_decoded(self) -> int:
        return sum(at > self.prefill_seconds for times in self.known_at for at in times)


def rival_tasks(scale: Scale) -> list[Task]:
    engines = Engines(scale.shapes, scale.device, scale.dtype)
    tasks = []
    for name in scale.rival_models:
        for count, length in scale.rival_prompts:
            run = partial(_compared, engines, name, (count, length), 1, scale)
            tasks.append(Task(name=f"{name} prompts {count} x {length}", table=TABLE, run=run))
        for count, length in scale.rival_decodes:
            run = partial(_compared, engines, name, (count, length), scale.rival_steps, scale)
            tasks.append(Task(name=f"{name} decoding {count} x {length}", table=TABLE, run=run))
    return tasks


def _compared(
    engines: Engines,
    name: str,
    batch: tuple[int, int],
    num_tokens: int,
    scale: Scale,
    deadline: Deadline,
) -> Iterator[Row]:
    count, length = batch
    blocks = max(
        n * -(-(size + scale.rival_steps) // BLOCK)
        for n, size in [*scale.rival_prompts, *scale.rival_decodes]
    )
    engine = engines.get(name, blocks)
    prompts = random_prompts([length] * count, engine.model.decoder.spec.vocab_size)
    contestants: dict[str, Callable[[], Generated]] = {
        "lengthwise": lambda: ours(engine, prompts, num_tokens)
    }
    if find_spec("transformers") is not None:
        twin = twin_of(engine.model)
        rival = f"transformers, {attention_of(twin)}"
        contestants[rival] = lambda: transformers(twin, prompts, num_tokens)
    for implementation, run in contestants.items():
        if deadline.left <= 0:
            raise LeftOut(implementation)
        run()  # compiles kernels and captures graphs
        runs = [run()]
        while len(runs) < scale.rival_repeats and deadline.left > 0:
            runs.append(run())
        yield _measured(engine, implementation, batch, num_tokens, runs).row()
    if len(contestants) == 1:
        raise LeftOut("transformers is not installed")


def _measured(
    engine: Engine,
    implementation: str,
    batch: tuple[int, int],
    num_tokens: int,
    runs: Sequence[Generated],
) -> Measurement:
    count, length = batch
    spec = engine.model.decoder.spec
    if num_tokens == 1:
        return Measurement(
            op="prompts",
            shape=f"{engine.name}, {count} x {length} tokens",
            implementation=implementation,
            milliseconds=[run.prefill_seconds * 1e3 for run in runs],
            flops=prefill_flops(spec, [length] * count),
            tokens=count * length,
        )
    # What was decoded while others' prompts were still computed is not counted: of a step each.
    steps = [run.num_decoded / count for run in runs]
    keys = count * (length + num_tokens // 2)
    return Measurement(
        op="decoding",
        shape=f"{engine.name}, {count} rows after {length}",
        implementation=implementation,
        milliseconds=[
            run.decode_seconds * 1e3 / many for run, many in zip(runs, steps, strict=True)
        ],
        num_bytes=step_bytes(spec, keys, engine.model.decoder.dtype.itemsize),
        tokens=count,
    )


def ours(engine: Engine, prompts: Sequence[Sequence[int]], num_tokens: int) -> Generated:
    """The engine's greedy tokens."""
    runner = engine.runner(graphs=True)
    finish()
    began_at = time.perf_counter()
    rows = generate(
        runner,
        prompts,
        num_tokens,
        num_blocks=engine.cache.num_blocks,
        step_tokens=STEP_TOKENS,
    )
    return Generated(
        tokens=[row.generated for row in rows],
        known_at=[[at - began_at for at in row.known_at] for row in rows],
    )


def transformers(twin: Any, prompts: Sequence[Sequence[int]], num_tokens: int) -> Generated:
    """The greedy tokens of transformers' continuous batching.

    Raises TimeoutError or RuntimeError when it does not end well.
    """
    library = _library()
    # It logs each of its choices as a warning.
    logging.getLogger("ContinuousBatchingLogger").setLevel(logging.ERROR)
    generation = library.GenerationConfig(
        max_new_tokens=num_tokens, do_sample=False, eos_token_id=-1, pad_token_id=0
    )
    pages = sum(-(-(len(prompt) + num_tokens) // PAGE_TOKENS) + 1 for prompt in prompts)
    batching = library.ContinuousBatchingConfig(
        num_blocks=pages,
        max_batch_tokens=STEP_TOKENS,
        allow_block_sharing=False,
    )
    finish()
    with twin.continuous_batching_context_manager(
        generation_config=generation, continuous_batching_config=batching, timeout=WAIT_SECONDS
    ) as manager:
        began_at = time.perf_counter()
        names = manager.add_requests(
            [list(prompt) for prompt in prompts], max_new_tokens=num_tokens, record_timestamps=True
        )
        results = _collect(manager, len(names), began_at + WAIT_SECONDS)
    ordered = [results[name] for name in names]
    return Generated(
        tokens=[list(result.generated_tokens) for result in ordered],
        known_at=[[at - began_at for at in result.timestamps] for result in ordered],
    )


def _collect(manager: Any, count: int, until: float) -> dict[str, Any]:
    results: dict[str, Any] = {}
    while len(results) < count:
        if time.perf_counter() > until:
            raise TimeoutError(
                f"transformers ended {len(results)} of {count} requests in {WAIT_SECONDS:.0f} s"
            )
        result = manager.get_result(timeout=1)
        if result is not None and result.is_finished():
            if result.error is not None:
                raise RuntimeError(f"transformers: {result.error}")
            results[result.request_id] = result
        elif result is None and not manager.is_running():
            raise RuntimeError("transformers' generation thread has ended")
    return results


def attention_of(twin: Any) -> str:
    """The attention that continuous batching will use: FlashAttention where it is installed."""
    library = _library()
    manager = twin.init_continuous_batching(library.GenerationConfig(eos_token_id=-1))
    chosen = str(twin.config._attn_implementation)
    manager.destroy()
    return chosen


def twin_of(model: RandomModel) -> Any:
    """The same model in transformers, over the very same tensors."""
    library = _library()
    values = dict(model.shape)
    config = library.AutoConfig.for_model(values.pop("model_type"), **values)
    with torch.device("meta"):
        twin: Any = library.AutoModelForCausalLM.from_config(
            config, dtype=model.decoder.dtype, attn_implementation="sdpa"
        )
    left = twin.load_state_dict(dict(model.tensors), strict=False, assign=True)
    if left.unexpected_keys:
        raise RuntimeError(f"transformers has no {left.unexpected_keys}")
    twin.tie_weights()
    # The frequencies belong to no checkpoint and were made on the meta device.
    with torch.device(model.decoder.device):
        twin.model.rotary_emb = type(twin.model.rotary_emb)(config)
    if lost := [name for name, value in twin.named_parameters() if value.is_meta]:
        raise RuntimeError(f"transformers got no values of {lost}")
    return twin.eval()


def _library() -> Any:
    """transformers, which most of `make gpu-check` does without: importing it takes seconds."""
    return import_module("transformers")

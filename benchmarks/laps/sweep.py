"""LAPS' sweep: 500 short chats, one token each, by concurrency and by what of LAPS is switched on.

The published table (one H200, Qwen2.5-32B) has 30,000 to 41,000 tokens/s at 128 clients. A token
takes two operations per weight, so that 790 TFLOP/s allow 12,700: rows say what share of this limit
was reached. Repeats come in rounds over all settings, whose order turns, so that a sweep cut short
has fewer repeats of everything, and no setting always runs first.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from gpu.agreement.case import FLOPS_PER_SECOND
from gpu.measurement import device_columns, quantile
from gpu.scale import Scale
from gpu.task import Deadline, LeftOut, Row, Task
from random_models.engines import Engine, Engines
from random_models.generate import random_prompts
from random_models.models import BLOCK, projection_parameters

from laps.lengths import prompt_lengths
from laps.loop import ClosedLoop
from lengthwise_policy.prefill.policy import PrefillPolicy

TABLE: Final = "gpu_laps"


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What is switched on."""

    policy: PrefillPolicy
    graphs: bool


SETTINGS: Final[Mapping[str, Setting]] = {
    "fcfs": Setting(policy=PrefillPolicy(discipline="fcfs"), graphs=False),
    "graphs": Setting(policy=PrefillPolicy(discipline="fcfs"), graphs=True),
    "dual queue": Setting(policy=PrefillPolicy(discipline="short_first"), graphs=False),
    "ours": Setting(policy=PrefillPolicy(), graphs=True),
}
LONE_PROMPTS: Final = 100
"""With one client nothing can be batched: a prompt takes one step however many follow."""


def laps_tasks(scale: Scale) -> list[Task]:
    def run(deadline: Deadline) -> Iterator[Row]:
        return _sweep(scale, deadline)

    return [Task(name=f"{scale.laps_model} sweep", table=TABLE, run=run)]


def _sweep(scale: Scale, deadline: Deadline) -> Iterator[Row]:
    engine = Engines(scale.shapes, scale.device, scale.dtype).get(
        scale.laps_model, _num_blocks(scale)
    )
    loops = _loops(engine)
    limit = FLOPS_PER_SECOND / (2 * projection_parameters(engine.model.decoder.spec))
    names = list(SETTINGS)
    runs = [
        (repeat, concurrency, names[(repeat + place) % len(names)])
        for repeat in range(scale.laps_repeats)
        for concurrency in scale.laps_concurrencies
        for place in range(len(names))
    ]
    _warm_up(loops, engine, scale, deadline)
    for done, (repeat, concurrency, name) in enumerate(runs):
        if deadline.left <= 0:
            raise LeftOut(f"{len(runs) - done} of {len(runs)} runs, from repeat {repeat + 1} on")
        prompts = _prompts(engine, scale, concurrency, seed=repeat)
        counts = engine.runner(graphs=SETTINGS[name].graphs).counts
        captured, replayed = counts.graphs, counts.replayed.total()
        played = loops[name].play(prompts, concurrency)
        tokens_per_second = sum(map(len, prompts)) / played.seconds
        yield {
            **device_columns(),
            "model": f"{scale.laps_model}, random weights",
            "setting": name,
            "concurrency": concurrency,
            "repeat": repeat + 1,
            "prompts": len(prompts),
            "prompt_tokens": sum(map(len, prompts)),
            "batches": played.num_batches,
            "replayed": counts.replayed.total() - replayed,
            "captured": counts.graphs - captured,
            "graphs": counts.graphs,
            "graph_megabytes": round(counts.graph_bytes / 1e6, 1),
            "capture_seconds": round(counts.capture_seconds, 2),
            "ttft_p50_ms": round(quantile(played.ttft_seconds, 0.5) * 1e3, 2),
            "ttft_p99_ms": round(quantile(played.ttft_seconds, 0.99) * 1e3, 2),
            "tokens_per_second": round(tokens_per_second, 1),
            "limit_tokens_per_second": round(limit, 1),
            "share_of_limit": round(tokens_per_second / limit, 4),
        }


def _loops(engine: Engine) -> dict[str, ClosedLoop]:
    runners = {graphs: engine.runner(graphs=graphs) for graphs in (False, True)}
    return {
        name: ClosedLoop(runners[setting.graphs], setting.policy, engine.cache.num_blocks)
        for name, setting in SETTINGS.items()
    }


def _warm_up(
    loops: Mapping[str, ClosedLoop], engine: Engine, scale: Scale, deadline: Deadline
) -> None:
    """Lets graphs be captured and costs be fitted before anything is measured."""
    prompts = _prompts(engine, scale, max(scale.laps_concurrencies), seed=-1)
    for loop in loops.values():
        if deadline.left <= 0:
            raise LeftOut("everything: no time was left after the warm-up")
        loop.play(prompts, max(scale.laps_concurrencies) // 4)


def _prompts(engine: Engine, scale: Scale, concurrency: int, seed: int) -> list[list[int]]:
    count = min(scale.laps_prompts, LONE_PROMPTS) if concurrency == 1 else scale.laps_prompts
    lengths = [min(length, scale.laps_longest) for length in prompt_lengths(count, seed)]
    return random_prompts(lengths, engine.model.decoder.spec.vocab_size, seed)


def _num_blocks(scale: Scale) -> int:
    """Holds all prompts at once, so that nothing ever waits for blocks."""
    lengths = prompt_lengths(scale.laps_prompts, 0)
    return sum(-(-min(length, scale.laps_longest) // BLOCK) for length in lengths)

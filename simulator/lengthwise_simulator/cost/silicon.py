"""Measured silicon: a model's step times on a GPU, asked of aiconfigurator once and kept in a file.

The file is the user's, and says which model and GPU it is of; another's is refused. Whatever it
holds is checked before it is believed.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

from lengthwise_simulator.cost.aiconfigurator import StepAnswer, StepQuestion, ask
from lengthwise_simulator.cost.step_tables import StepGrid, StepTables
from lengthwise_simulator.errors import SimulationError

RANKS: Final = (1, 2, 4, 8)
MOST_BYTES: Final = 4 << 20


def _sizes(first: int, last: int) -> tuple[int, ...]:
    """Powers of two and the middles between them: attention of prompts, which grows with the square
    of their tokens, comes out at most 4 % too long."""
    powers = [first << power for power in range((last // first).bit_length())]
    return tuple(sorted({*powers, *(size * 3 // 2 for size in powers[:-1] if size > 1)}))


GRID: Final = StepGrid(
    tokens=_sizes(1, 65_536),
    past=(0, *_sizes(64, 131_072)),
    requests=_sizes(1, 1024),
    context=_sizes(64, 131_072),
)


def silicon_tables(path: Path, config: Mapping[str, Any], gpu: str) -> dict[int, StepTables]:
    """By ranks, those that aiconfigurator has times for; of the file, which is made where there is
    none. `config` is the model's config.json. Errors: SimulationError, OSError."""
    model = sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()
    if not path.parent.is_dir() or (path.exists() and not path.is_file()):
        raise SimulationError(
            f"{path}: expected a file, or a name for one in a folder that is there"
        )
    if not path.exists():
        asked = {"gpu": gpu, "model": model, **_asked(config, gpu)}
        part = path.with_name(f"{path.name}.{os.getpid()}")
        part.write_text(json.dumps(asked), encoding="utf-8")
        part.replace(path)
    if path.stat().st_size > MOST_BYTES:
        raise SimulationError(f"{path}: got more than {MOST_BYTES:,} bytes, expected step times")
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        found = kept["gpu"], kept["model"]
        grid = StepGrid(**kept["grid"])
        tables = {
            int(each): StepTables(grid=grid, **parts) for each, parts in kept["ranks"].items()
        }
    except SimulationError as error:
        raise SimulationError(f"{path}: {error}") from error
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise SimulationError(
            f"{path}: got {error!r:.200}, expected a file of aiconfigurator's step times, or none,"
            " which is made then"
        ) from error
    if found != (gpu, model):
        what = f"{found[0]!s:.20}" if found[1] == model else f"another model on {found[0]!s:.20}"
        raise SimulationError(
            f"{path}: got step times of {what}, expected those of this model on {gpu}; name another"
            " file"
        )
    return tables


def _asked(config: Mapping[str, Any], gpu: str) -> dict[str, Any]:
    steps = [
        *((tokens, 0, 0, 0) for tokens in GRID.tokens),
        *((tokens, past, 0, 0) for tokens in GRID.tokens for past in GRID.past),
        *((0, 0, requests, context) for requests in GRID.requests for context in GRID.context),
    ]
    answers = ask([StepQuestion(config=config, gpu=gpu, ranks=each, steps=steps) for each in RANKS])
    ranks = {
        each: _parts(answer)
        for each, answer in zip(RANKS, answers, strict=True)
        if not answer.error
    }
    if not ranks:
        raise SimulationError(f"aiconfigurator has no times of this model: {answers[0].error}")
    made_by = next(answer.version for answer in answers if not answer.error)
    return {"made_by": made_by, "grid": asdict(GRID), "ranks": ranks}


def _parts(answer: StepAnswer) -> dict[str, Any]:
    tokens, past = len(GRID.tokens), len(GRID.past)
    steps = iter(answer.steps)
    rest = [next(steps)[0] for _ in range(tokens)]
    prompts = [[next(steps)[1] for _ in range(past)] for _ in range(tokens)]
    decodes = [[next(steps)[2] for _ in GRID.context] for _ in GRID.requests]
    return {"rest": rest, "prompts": prompts, "decodes": decodes}

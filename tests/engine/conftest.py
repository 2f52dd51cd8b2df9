"""What the engine tests share: a scheduler of few lines."""

import json
import random
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lengthwise_engine.loaded_model import LoadedModel, load_runner
from lengthwise_engine.runner.base import SequenceChunk
from lengthwise_engine.runner.sampler import SampledToken, SamplingParameters, SamplingState
from lengthwise_engine.toy.checkpoint import write_toy_checkpoint

Generate = Callable[..., list[list[SampledToken]]]


@pytest.fixture
def toy(tmp_path: Path) -> LoadedModel:
    folder = write_toy_checkpoint(tmp_path / "toy", num_layers=3, context_length=2048)
    return load_runner(folder, device="cpu", num_blocks=300, kv_memory_bytes=0)


@pytest.fixture
def copy_of(tmp_path: Path, make_checkpoint: Callable[..., Path]) -> Callable[..., Path]:
    """`copy_of(variant, changes, drop=keys)`: a checkpoint a test may damage.

    Its config.json has the `changes` and lacks the keys to `drop`, unless they are changes.
    """

    def copy(
        variant: str, changes: Mapping[str, Any] | None = None, *, drop: Sequence[str] = ()
    ) -> Path:
        target = tmp_path / f"{variant}-{len(list(tmp_path.iterdir()))}"
        folder = Path(shutil.copytree(make_checkpoint(variant), target))
        config = json.loads((folder / "config.json").read_text())
        kept = {key: value for key, value in config.items() if key not in drop}
        (folder / "config.json").write_text(json.dumps({**kept, **(changes or {})}))
        return folder

    return copy


@pytest.fixture(scope="session")
def generate() -> Generate:
    """`generate(loaded, prompts, num_tokens, samplings=..., chunk_sizes=..., adapters=...)`, in one
    batch.

    Each prompt is computed in chunks of its `chunk_sizes`, beside the others' chunks and decode
    rows, in blocks scattered over the cache; returns the tokens of each.
    """
    return _generate


def _generate(
    loaded: LoadedModel,
    prompts: Sequence[Sequence[int]],
    num_tokens: int,
    *,
    samplings: Sequence[SamplingParameters] | None = None,
    chunk_sizes: Sequence[int] | None = None,
    adapters: Sequence[int | None] | None = None,
) -> list[list[SampledToken]]:
    free = list(range(loaded.cache.num_blocks))
    random.Random(3).shuffle(free)
    tables: list[list[int]] = []
    for prompt in prompts:
        count = loaded.runner.layout.num_blocks_for(len(prompt) + num_tokens)
        tables.append([free.pop() for _ in range(count)])
    samplings = samplings or [SamplingParameters(temperature=0.0)] * len(prompts)
    chunk_sizes = chunk_sizes or [len(prompt) for prompt in prompts]
    states = [
        SamplingState(sampling=sampling, token_ids=list(prompt), num_prompt_tokens=len(prompt))
        for sampling, prompt in zip(samplings, prompts, strict=True)
    ]
    cached = [0] * len(prompts)
    results: list[list[SampledToken]] = [[] for _ in prompts]
    while any(len(result) < num_tokens for result in results):
        rows = [row for row, result in enumerate(results) if len(result) < num_tokens]
        chunks = list(_next_chunks(rows, states, cached, chunk_sizes, tables))
        if adapters is not None:
            pairs = zip(chunks, rows, strict=True)
            chunks = [replace(chunk, adapter=adapters[row]) for chunk, row in pairs]
        tokens = loaded.runner.run(chunks)
        for row, chunk, token in zip(rows, chunks, tokens, strict=True):
            cached[row] = chunk.end
            if token is not None:
                results[row].append(token)
                states[row].token_ids = [*states[row].token_ids, token.token_id]
    return results


def _next_chunks(
    rows: Sequence[int],
    states: Sequence[SamplingState],
    cached: Sequence[int],
    chunk_sizes: Sequence[int],
    tables: Sequence[Sequence[int]],
) -> Iterator[SequenceChunk]:
    for row in rows:
        end = min(cached[row] + chunk_sizes[row], len(states[row].token_ids))
        yield SequenceChunk(
            token_ids=states[row].token_ids[cached[row] : end],
            start=cached[row],
            block_ids=tables[row],
            sampling=states[row] if end == len(states[row].token_ids) else None,
        )

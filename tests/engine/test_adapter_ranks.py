"""Adapters on several ranks: each has its part of them as it has of the base's weights."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from engine.ranks import ranks_in_threads
from harness.lora.adapters import best_tokens, merged, write_adapter

from lengthwise_engine.loaded_model import load_runner
from lengthwise_engine.models.adapters.room import AdapterRoom, AdapterSettings
from lengthwise_engine.models.decoder_loader import read_spec
from lengthwise_engine.models.shard import ModelShard
from lengthwise_engine.runner.sampler import SampledToken, SamplingParameters

Generate = Callable[..., list[list[SampledToken]]]

NUM_BLOCKS = 60
PROMPTS = [[(7 * i + 13 * n + i * i) % 320 for i in range(n)] for n in (3, 40, 61, 20)]
SAMPLINGS = [SamplingParameters(temperature=0.0, top_logprobs=2)] * len(PROMPTS)
# KV heads cut in two, and held by two ranks each.
CASES = [("llama-biases", 2), ("qwen3", 2), ("llama-mqa-head-dim", 4)]


def _folders(checkpoint: Path, folder: Path) -> dict[str, Path]:
    return {
        "all": write_adapter(folder / "all", checkpoint, seed=1),
        "some": write_adapter(
            folder / "some", checkpoint, seed=2, rank=2, targets=("k_proj", "o_proj", "up_proj")
        ),
    }


@pytest.mark.slow
@pytest.mark.parametrize(("variant", "size"), CASES)
def test_ranks_say_of_adapters_what_one_says(
    variant: str,
    size: int,
    make_checkpoint: Callable[..., Path],
    tmp_path: Path,
    generate: Generate,
) -> None:
    """In chunks and decode rows that share steps; and what the merged models say."""
    checkpoint = make_checkpoint(variant)
    folders = _folders(checkpoint, tmp_path)
    settings = AdapterSettings(folders=folders)
    alone = load_runner(checkpoint, device="cpu", num_blocks=NUM_BLOCKS, adapters=settings)
    how = {"adapters": [0, 1, None, 0], "chunk_sizes": [3, 16, 37, 20], "samplings": SAMPLINGS}
    expected = generate(alone, PROMPTS, 6, **how)
    room = settings.room(
        ModelShard(whole=read_spec(checkpoint), size=size), torch.device("cpu"), torch.float32
    )
    with ranks_in_threads(checkpoint, size, NUM_BLOCKS, adapters=room) as ranks:
        loaded = SimpleNamespace(cache=ranks.cache, runner=ranks)
        got = generate(loaded, PROMPTS, 6, **how)
    assert _texts(got) == _texts(expected)
    for ours, theirs in zip(got, expected, strict=True):
        for a, b in zip(ours, theirs, strict=True):
            assert a.logprob == pytest.approx(b.logprob, abs=1e-4)
    assert _texts(got)[1] == best_tokens(merged(checkpoint, folders["some"]), PROMPTS[1], 6)


@pytest.mark.slow
def test_processes_are_given_an_adapter_while_they_serve(
    make_checkpoint: Callable[..., Path], tmp_path: Path, generate: Generate
) -> None:
    """There is one place for two. What is read is rank 0's: the files may be gone by then."""
    checkpoint = make_checkpoint("qwen3")
    folders = _folders(checkpoint, tmp_path)
    expected = {
        name: best_tokens(merged(checkpoint, folder), PROMPTS[1], 5)
        for name, folder in folders.items()
    }
    loaded = load_runner(
        checkpoint,
        device="cpu",
        num_blocks=NUM_BLOCKS,
        tensor_parallel_size=2,
        adapters=AdapterSettings(folders=folders, places=1),
    )
    try:
        assert loaded.adapters is not None
        for folder in folders.values():
            (folder / "adapter_model.safetensors").unlink()
        for number in (0, 1, 0):
            file = loaded.adapters.files[number]
            loaded.adapters.put(0, file)
            got = generate(loaded, PROMPTS[1:2], 5, adapters=[0])
            assert _texts(got) == [expected[file.key.partition("@")[0]]]
    finally:
        loaded.close()


def test_the_parts_of_ranks_are_those_of_the_whole(
    make_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    """Of widening projections each rank has outputs of B, of narrowing ones inputs of A; a rank's
    memory is planned to the byte."""
    checkpoint = make_checkpoint("llama-biases")
    whole = ModelShard(whole=read_spec(checkpoint))
    settings = AdapterSettings(folders=_folders(checkpoint, tmp_path))
    cpu = torch.device("cpu")
    room = AdapterRoom(settings, whole, cpu, torch.float32)
    ranks = [replace(whole, rank=rank, size=2) for rank in range(2)]

    def read(shard: ModelShard, name: str) -> list[torch.Tensor]:
        return list(room.plan.shapes(shard)[name].read(room.files[0], 2, torch.float32))

    down, up = read(whole, "down")
    assert torch.equal(torch.cat([read(rank, "down")[0] for rank in ranks]), down)
    assert all(torch.equal(read(rank, "down")[1], up) for rank in ranks)
    down, *ups = read(whole, "qkv")
    assert len(ups) == 3
    for place, up in enumerate(ups, 1):
        assert torch.equal(torch.cat([read(rank, "qkv")[place] for rank in ranks], dim=1), up)
    assert all(torch.equal(read(rank, "qkv")[0], down) for rank in ranks)
    for rank in ranks:
        half = AdapterRoom(settings, rank, cpu, torch.bfloat16)
        stack = half.plan.stack(rank, cpu, torch.bfloat16)
        assert half.num_bytes == sum(each.nbytes for each in stack.tensors()) > 0


def _texts(answers: list[list[SampledToken]]) -> list[list[int]]:
    return [[token.token_id for token in answer] for answer in answers]

"""Models that transformers computes, through a router and from one worker to another."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from harness.foreign.architectures import write_foreign_checkpoint
from harness.reference import Reference

import lengthwise
from lengthwise_engine.toy.checkpoint import write_toy_checkpoint
from lengthwise_local import LocalCluster

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

PECULIAR = ("gemma2", "deepseek_v3", "gpt_oss")
"""Windows; values narrower than keys; sinks. What differs within a layer alone, the engine's tests
compare for every architecture."""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    made = {name: write_toy_checkpoint(tmp_path_factory.mktemp(name)) for name in PECULIAR}
    return {name: write_foreign_checkpoint(folder, name) for name, folder in made.items()}


@pytest.fixture(scope="module")
def client(folders: Mapping[str, Path]) -> Iterator[lengthwise.Client]:
    with (
        LocalCluster(models=folders, decode=1, settings=["num_blocks=64"]) as cluster,
        lengthwise.Client(cluster.endpoints) as client,
    ):
        yield client


@pytest.mark.parametrize("model", PECULIAR)
def test_tokens_are_those_of_transformers(
    model: str, client: lengthwise.Client, folders: Mapping[str, Path]
) -> None:
    reference = Reference(folders[model])
    for prompt in ("class Queue:\n", 9 * "def read_lines(path):\n"):
        expected = reference.token_ids(prompt, 20)
        # The second time its blocks are cached.
        for _ in range(2):
            completion = client.generate(
                prompt, model=model, max_tokens=20, temperature=0, ignore_eos=True
            )
            assert completion.token_ids == expected

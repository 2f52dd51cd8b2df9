"""Two models behind one router, each with workers of its own: every answer is the right model's."""

import asyncio
import itertools
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness.toy_oracle import toy_continuation

import lengthwise
from lengthwise_checkpoint.config_json import ConfigJson
from lengthwise_checkpoint.toy import ToySpec, read_toy_spec
from lengthwise_engine.toy.checkpoint import write_toy_checkpoint
from lengthwise_local import LocalCluster

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

NAMES = ("three layers", "four/layers")
PROMPT = list(b"once upon a time")
NUM_TOKENS = 40


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Models of different layers: equal prompts get different tokens."""
    folder = tmp_path_factory.mktemp("models")
    return {
        name: write_toy_checkpoint(
            folder / f"toy-{num_layers}", num_layers=num_layers, step_seconds=0.002
        )
        for name, num_layers in zip(NAMES, (3, 4), strict=True)
    }


@pytest.fixture(scope="module")
def specs(folders: dict[str, Path]) -> dict[str, ToySpec]:
    return {
        name: read_toy_spec(ConfigJson.read(folder / "config.json"))
        for name, folder in folders.items()
    }


@pytest.fixture(scope="module")
def models_cluster(folders: dict[str, Path]) -> Iterator[LocalCluster]:
    with LocalCluster(models={**folders}) as cluster:
        yield cluster


async def test_requests_of_both_at_once_get_each_models_own_tokens(
    models_cluster: LocalCluster, specs: dict[str, ToySpec]
) -> None:
    names = [name for name, _ in zip(itertools.cycle(NAMES), range(40), strict=False)]
    prompts = [[*PROMPT, 65 + index] for index in range(len(names))]
    async with lengthwise.AsyncClient(models_cluster.endpoints) as client:
        completions = await asyncio.gather(
            *(
                client.generate(
                    prompt, model=name, max_tokens=NUM_TOKENS, temperature=0, request_id="same"
                )
                for name, prompt in zip(names, prompts, strict=True)
            )
        )
    expected = [
        toy_continuation(prompt, NUM_TOKENS, specs[name])
        for name, prompt in zip(names, prompts, strict=True)
    ]
    assert [list(each.token_ids) for each in completions] == expected
    assert toy_continuation(PROMPT, 8, specs[NAMES[0]]) != toy_continuation(
        PROMPT, 8, specs[NAMES[1]]
    )


async def test_one_model_goes_on_while_all_workers_of_the_other_are_dead(
    models_cluster: LocalCluster, specs: dict[str, ToySpec]
) -> None:
    dead, alive = NAMES
    victims = [worker for worker in models_cluster.workers if worker.model == dead]
    assert len(victims) == 2
    for worker in victims:
        worker.kill()
    async with lengthwise.AsyncClient(models_cluster.endpoints) as client:
        waiting = asyncio.create_task(
            client.generate(PROMPT, model=dead, max_tokens=NUM_TOKENS, temperature=0)
        )
        for _ in range(5):
            completion = await client.generate(
                PROMPT, model=alive, max_tokens=NUM_TOKENS, temperature=0
            )
            assert list(completion.token_ids) == toy_continuation(PROMPT, NUM_TOKENS, specs[alive])
        for worker in victims:
            await asyncio.to_thread(worker.restart)
        completion = await waiting
        assert list(completion.token_ids) == toy_continuation(PROMPT, NUM_TOKENS, specs[dead])


def cli(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "lengthwise_cli.main", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)


def test_commands_name_a_model(models_cluster: LocalCluster, specs: dict[str, ToySpec]) -> None:
    endpoint = ("--endpoint", models_cluster.endpoint)
    assert cli("models", *endpoint).stdout.splitlines() == sorted(NAMES)
    refused = cli("generate", "x", *endpoint)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr == (
        "lengthwise: model: got none, expected one of 'four/layers', 'three layers'\n"
    )
    arguments = ("--model", NAMES[1], "--max-tokens", "8", "--temperature", "0", "--json")
    value = json.loads(cli("generate", bytes(PROMPT).decode(), *arguments, *endpoint).stdout)
    assert value["text"].encode() == bytes(toy_continuation(PROMPT, 8, specs[NAMES[1]]))


def test_up_serves_several_models_and_says_how_to_call_each(folders: dict[str, Path]) -> None:
    paths = [str(folder) for folder in folders.values()]
    result = cli(
        "up", "--model", paths[0], "--model", f"b={paths[1]}", "--port", "0", "--decode", "1",
        "--once", "--say", "hello",
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    assert "--max-tokens 64 --model toy-3" in result.stdout
    assert "max_tokens=64, model='b')" in result.stdout
    assert result.stdout.count("64 output tokens") == 2

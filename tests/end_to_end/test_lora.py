"""Adapters of one model on a whole cluster: every answer is the asked adapter's own."""

import asyncio
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from harness.checkpoints import write_checkpoint
from harness.lora.adapters import best_tokens, merged, write_adapter
from harness.samples import samples_of
from harness.waiting import eventually

import lengthwise
from lengthwise.errors import ModelNotFound
from lengthwise_local import LocalCluster

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

NUM_TOKENS = 6
PROMPT = [(7 * i + i * i) % 250 for i in range(70)]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A model, `small`, two adapters of it, and an empty folder, `open`."""
    folder = tmp_path_factory.mktemp("lora")
    small = write_checkpoint(folder / "small", "qwen3")
    (folder / "open").mkdir()
    return {
        "open": folder / "open",
        "small": small,
        "first": write_adapter(folder / "first", small, seed=1),
        "second": write_adapter(folder / "second", small, seed=2, rank=8),
    }


@pytest.fixture(scope="module")
def adapted(folders: dict[str, Path]) -> Iterator[LocalCluster]:
    worker = {
        "num_blocks": 256,
        "dtype": "float32",
        "adapters_folder": str(folders["open"]),
        "adapter_places": 2,
    }
    with LocalCluster(
        model=folders["small"],
        adapters=[f"{name}={folders[name]}" for name in ("first", "second")],
        prefill=1,
        decode=1,
        http_port=0,
        configs={"prefill": worker, "decode": worker, "router": {"local_prefill": False}},
    ) as cluster:
        yield cluster


def _expected(folders: dict[str, Path], prompt: list[int]) -> dict[str, list[int]]:
    adapters = {"small": None, "small:first": folders["first"], "small:second": folders["second"]}
    return {
        name: best_tokens(merged(folders["small"], adapter), prompt, NUM_TOKENS)
        for name, adapter in adapters.items()
    }


async def test_every_request_gets_its_own_adapters_tokens_and_shares_no_others_prefix(
    adapted: LocalCluster, folders: dict[str, Path]
) -> None:
    expected = _expected(folders, PROMPT)
    asked: dict[str, Any] = {"max_tokens": NUM_TOKENS, "temperature": 0, "ignore_eos": True}
    async with lengthwise.AsyncClient(adapted.endpoints) as client:
        names = [name for name in expected for _ in range(3)]
        first = await asyncio.gather(
            *(client.generate(PROMPT[:40], model=name, **asked) for name in names)
        )
        for name in expected:
            cold = await client.generate(PROMPT, model=name, **asked)
            warm = await client.generate(PROMPT, model=name, **asked)
            assert list(cold.token_ids) == list(warm.token_ids) == expected[name]
            # Two blocks of its own shorter prompt, and nothing of the other adapters' longer ones.
            assert cold.usage.cached_prompt_tokens == 32
            assert warm.usage.cached_prompt_tokens == 64
    short = _expected(folders, PROMPT[:40])
    assert [list(each.token_ids) for each in first] == [short[name] for name in names]
    assert len({tuple(each) for each in expected.values()}) == 3


def test_adapters_are_listed_beside_their_model_and_others_are_not_found(
    adapted: LocalCluster,
) -> None:
    names = ["small", "small:first", "small:second"]
    with lengthwise.Client(adapted.endpoints) as client:
        models = client.models()
        assert [model.name for model in models] == names
        assert len({model.fingerprint for model in models}) == 3
        assert client.model("small:second").name == "small:second"
        with pytest.raises(ModelNotFound, match=r"got adapter 'third', .* hold first, second"):
            client.generate("x", model="small:third", max_tokens=1)
    base = f"http://{adapted.routers[0].http_address}/v1"
    assert [each["id"] for each in httpx.get(f"{base}/models").json()["data"]] == names
    body = {"model": "small:first", "prompt": PROMPT, "max_tokens": 2, "temperature": 0}
    answer = httpx.post(f"{base}/completions", json=body, timeout=30).json()
    assert answer["model"] == "small:first"
    body["model"] = "small:third"
    assert httpx.post(f"{base}/completions", json=body, timeout=30).status_code == 404


def test_workers_count_the_requests_of_each_adapter(adapted: LocalCluster) -> None:
    name = "lengthwise_adapter_requests_total"
    with lengthwise.Client(adapted.endpoints) as client:
        before = samples_of(adapted.prefill[0].metrics_address)
        client.generate("x", model="small:second", max_tokens=1)
        client.generate("x", model="small", max_tokens=1)
    after = samples_of(adapted.prefill[0].metrics_address)
    changes = {
        dict(labels)["adapter"]: value - before[key, labels]
        for (key, labels), value in after.items()
        if key == name
    }
    assert changes == {"first": 0, "second": 1}


async def test_an_adapter_comes_and_goes_while_the_model_is_served(
    adapted: LocalCluster, folders: dict[str, Path], tmp_path: Path
) -> None:
    """There are places for two: it takes that of another, which then takes it back."""
    third = write_adapter(tmp_path / "third", folders["small"], seed=3)
    expected = best_tokens(merged(folders["small"], third), PROMPT, NUM_TOKENS)
    asked: dict[str, Any] = {"max_tokens": NUM_TOKENS, "temperature": 0, "ignore_eos": True}
    third.rename(folders["open"] / "third")
    async with lengthwise.AsyncClient(adapted.endpoints) as client:

        async def is_listed() -> bool:
            return "small:third" in [model.name for model in await client.models()]

        async def is_gone() -> bool:
            return not await is_listed()

        await eventually(is_listed, 10.0)
        for _ in range(2):
            answer = await client.generate(PROMPT, model="small:third", **asked)
            assert list(answer.token_ids) == expected
            for name, tokens in _expected(folders, PROMPT).items():
                other = await client.generate(PROMPT, model=name, **asked)
                assert list(other.token_ids) == tokens
        shutil.rmtree(folders["open"] / "third")
        await eventually(is_gone, 10.0)
        with pytest.raises(ModelNotFound):
            await client.generate(PROMPT, model="small:third", **asked)


async def test_an_adapter_that_is_replaced_under_load_costs_no_request_and_mixes_no_answers(
    adapted: LocalCluster, folders: dict[str, Path], tmp_path: Path
) -> None:
    """Workers look at the folder each in its own time; a request has one version in both phases."""
    versions = [write_adapter(tmp_path / name, folders["small"], seed=seed, rank=2)
                for name, seed in (("old", 8), ("new", 9))]  # fmt: skip
    prompts = [PROMPT[start : start + 40] for start in range(6)]
    expected = [
        [best_tokens(merged(folders["small"], version), prompt, NUM_TOKENS) for prompt in prompts]
        for version in versions
    ]
    asked: dict[str, Any] = {"max_tokens": NUM_TOKENS, "temperature": 0, "ignore_eos": True}
    place, seen = folders["open"] / "fifth", [0, 0]
    versions[0].rename(place)
    async with lengthwise.AsyncClient(adapted.endpoints) as client:

        async def is_listed() -> bool:
            return "small:fifth" in [model.name for model in await client.models()]

        async def ask(number: int) -> None:
            """Until the new version answers."""
            while seen[1] < 20:
                answer = await client.generate(prompts[number], model="small:fifth", **asked)
                version = [each[number] for each in expected].index(list(answer.token_ids))
                seen[version] += 1

        await eventually(is_listed, 10.0)
        callers = [asyncio.create_task(ask(number)) for number in range(len(prompts))]
        await eventually(lambda: seen[0] > 10, 20.0)
        place.rename(tmp_path / "away")
        versions[1].rename(place)
        async with asyncio.timeout(60.0):
            await asyncio.gather(*callers)
    assert min(seen) > 10
    shutil.rmtree(place)

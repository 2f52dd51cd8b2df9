"""Choices of one prompt are those of separate requests, token for token, through whole clusters."""

import asyncio
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from harness.reference import DEMO_MODEL
from harness.samples import samples_of
from pydantic import BaseModel

import lengthwise
from lengthwise_local import LocalCluster
from lengthwise_local.process import Process

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

LINE = "def read_lines(path):\n    with open(path) as file:\n        return list(file)\n\n\n"
PROMPT = 20 * LINE + "def"
SAMPLED: dict[str, Any] = {"max_tokens": 12, "temperature": 0.9, "top_p": 0.95}


@pytest.fixture(scope="module")
def demo() -> Iterator[LocalCluster]:
    """One worker of each role."""
    with LocalCluster(model=DEMO_MODEL, prefill=1, decode=1) as cluster:
        yield cluster


def total(process: Process, name: str) -> float:
    """Of all series of this name."""
    return sum(
        value for (each, _), value in samples_of(process.metrics_address).items() if each == name
    )


def computed(cluster: LocalCluster) -> float:
    """Prompt tokens that the prefill worker or the decode worker has computed."""
    prefill = total(cluster.prefill[0], "lengthwise_prefill_tokens_total")
    return prefill + total(cluster.decode[0], "lengthwise_local_prefill_tokens_total")


def kill_busy(processes: Sequence[Process]) -> None:
    """Those that have requests."""
    for process in processes:
        names = ("lengthwise_running_requests", "lengthwise_requests_in_flight")
        if any(total(process, name) for name in names):
            process.kill()


class Answer(BaseModel):
    a: int
    b: bool


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"top_logprobs": 3, "logit_bias": {70: 4.0}, "min_tokens": 10},
        {"repetition_penalty": 1.3, "presence_penalty": 0.5, "stop": ["("]},
        {"max_tokens": 1},
        {"max_tokens": 2, "top_logprobs": 0},
        {"response_format": Answer, "max_tokens": 40},
    ],
    ids=lambda options: "+".join(options) or "plain",
)
def test_choice_i_is_the_request_with_seed_plus_i(
    demo: LocalCluster, options: dict[str, Any]
) -> None:
    with lengthwise.Client(demo.endpoint) as client:
        for prompt, seed in ((PROMPT, 7), ("import", 2**64 - 3)):
            asked = {**SAMPLED, **options}
            several = client.generate(prompt, n=3, seed=seed, **asked)
            for choice, each in enumerate(several.choices):
                alone = client.generate(
                    prompt, seed=(seed + choice) % 2**64, cache_salt=f"salt {choice}", **asked
                )
                assert each.token_ids == alone.token_ids
                assert each.text == alone.text
                assert each.finish_reason == alone.finish_reason
                assert each.seed == alone.seed
                for token, other in zip(each.tokens, alone.tokens, strict=True):
                    if token.logprobs is not None and other.logprobs is not None:
                        assert token.logprobs.logprob == pytest.approx(
                            other.logprobs.logprob, abs=1e-4
                        )
                    assert (token.logprobs is None) == (options.get("top_logprobs") is None)


def test_the_prompt_is_computed_once(demo: LocalCluster) -> None:
    with lengthwise.Client(demo.endpoint) as client:
        num_tokens = len(client.tokenize(PROMPT))
        before = computed(demo)
        completion = client.generate(PROMPT, n=8, cache_salt="once", **SAMPLED)
        after = computed(demo)
        assert num_tokens + 7 <= after - before <= num_tokens + 7 * 16
        assert [each.usage.prompt_tokens for each in completion.choices] == [num_tokens, *[0] * 7]
        last = client.explain(f"{completion.request_id}-7").attempts[0]
        assert last.placement_reason.startswith("shared prompt: ")
        assert last.cached_tokens_decode == (num_tokens - 1) // 16 * 16


async def test_choices_survive_their_workers_and_their_router(toy_folder: Path) -> None:
    prompt = [(31 * i + 7) % 250 for i in range(300)]
    asked: dict[str, Any] = {"max_tokens": 300, "seed": 11, "temperature": 0.8, "ignore_eos": True}
    with LocalCluster(model=toy_folder, prefill=1, decode=2, routers=2) as cluster:
        async with lengthwise.AsyncClient(cluster.endpoints) as client:
            whole = await client.generate(prompt, n=5, **asked)
            for victims in (cluster.decode, cluster.routers[:1]):
                received = [0] * 5
                tokens: list[list[int]] = [[] for _ in range(5)]
                killed = False
                async for chunk in client.stream(prompt, n=5, **asked):
                    tokens[chunk.choice].extend(chunk.token_ids)
                    received[chunk.choice] += len(chunk.token_ids)
                    if not killed and min(received) > 5:
                        killed = True
                        await asyncio.to_thread(kill_busy, victims)
                assert killed
                assert tokens == [list(each.token_ids) for each in whole.choices]

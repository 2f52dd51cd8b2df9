"""A deployment without prefill workers: decode workers compute prompts too, in chunks."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from end_to_end.test_truth import PROMPTS
from harness.clusters import Load, all_finished_more, closed_loop, nothing_is_held
from harness.reference import DEMO_MODEL, Reference
from harness.waiting import eventually

import lengthwise
from lengthwise_checkpoint.toy import ToySpec
from lengthwise_local import LocalCluster

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

CONTEXT = 4096
NUM_TOKENS = 16
CLIENTS = 8


@pytest.fixture(scope="module")
def reference() -> Reference:
    return Reference(DEMO_MODEL)


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    settings = ["dtype=float32"]
    with LocalCluster(model=DEMO_MODEL, prefill=0, decode=2, settings=settings) as cluster:
        yield cluster


def longest_prompt(reference: Reference) -> str:
    """That leaves room for NUM_TOKENS."""
    prompt = ""
    while len(reference.tokenizer.encode(longer := prompt + "x = 1\n").ids) <= CONTEXT - NUM_TOKENS:
        prompt = longer
    return prompt


async def test_prompts_of_all_lengths_at_once_are_answered_as_transformers_answers_them(
    cluster: LocalCluster, reference: Reference
) -> None:
    prompts = [PROMPTS["one word"], PROMPTS["several steps"], longest_prompt(reference)]
    expected = [reference.token_ids(prompt, NUM_TOKENS) for prompt in prompts]
    async with lengthwise.AsyncClient(cluster.endpoints) as client:
        # The second time what they share is cached.
        for _ in range(2):
            found = await asyncio.gather(
                *(
                    client.generate(prompt, max_tokens=NUM_TOKENS, temperature=0, ignore_eos=True)
                    for prompt in prompts
                )
            )
            assert [completion.token_ids for completion in found] == expected
            assert not any(completion.timings.retries for completion in found)


async def test_one_token_and_one_choice_need_no_prefill_worker_either(
    cluster: LocalCluster, reference: Reference
) -> None:
    prompt = PROMPTS["several steps"]
    async with lengthwise.AsyncClient(cluster.endpoints) as client:
        one = await client.generate(prompt, max_tokens=1, temperature=0, ignore_eos=True)
        assert one.token_ids == reference.token_ids(prompt, 1)
        chosen = await client.generate(prompt, choice=["yes", "no, never"], max_tokens=20)
        assert chosen.text in ("yes", "no, never")
        with pytest.raises(lengthwise.errors.PromptTooLong):
            await client.generate([7] * CONTEXT, max_tokens=1)


@pytest.fixture
def small(toy_folder: Path) -> Iterator[LocalCluster]:
    """With memory for a few requests, so that some wait or are preempted."""
    with LocalCluster(
        model=toy_folder, prefill=0, decode=2, configs={"decode": {"num_blocks": 128}}
    ) as cluster:
        yield cluster


async def test_requests_go_on_at_the_other_decode_worker_and_at_the_only_one_once_it_is_back(
    small: LocalCluster, toy_spec: ToySpec
) -> None:
    load, stop = Load(), asyncio.Event()
    async with lengthwise.AsyncClient(small.endpoints) as client:
        traffic = asyncio.create_task(
            closed_loop(client, toy_spec, load, stop, clients=CLIENTS, seed=5)
        )
        try:
            await all_finished_more(load, 2, clients=CLIENTS)
            small.decode[1].kill()
            await all_finished_more(load, 2, clients=CLIENTS)
            assert load.retried
            # None is left: what they generated is kept until one is back.
            small.decode[0].kill()
            await asyncio.to_thread(small.decode[0].restart)
            await all_finished_more(load, 2, clients=CLIENTS)
        finally:
            stop.set()
            await asyncio.to_thread(small.decode[1].restart)
            await traffic
    await eventually(lambda: nothing_is_held(small), 15)

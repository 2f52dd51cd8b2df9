"""A thousand requests later, every block and reservation is free and every answer was right."""

import asyncio

import pytest
from harness.clusters import Load, ask, nothing_is_held, questions
from harness.waiting import eventually

import lengthwise
from lengthwise_checkpoint.toy import ToySpec
from lengthwise_local import LocalCluster

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


async def test_a_thousand_short_requests_leave_nothing_behind(
    cluster: LocalCluster, toy_spec: ToySpec
) -> None:
    load, room = Load(), asyncio.Semaphore(32)
    async with lengthwise.AsyncClient(cluster.endpoints) as client, asyncio.TaskGroup() as group:

        async def asked(number: int) -> None:
            (question,) = questions(1, seed=number, longest=64, most=8)
            async with room:
                await ask(client, question, toy_spec, load)

        for number in range(1_000):
            group.create_task(asked(number))
    assert load.finished == 1_000
    await eventually(lambda: nothing_is_held(cluster), 5)


async def test_abandoned_requests_leave_nothing_behind(
    cluster: LocalCluster, toy_spec: ToySpec
) -> None:
    """Callers that give up anywhere between the first millisecond and half a second."""
    async with lengthwise.AsyncClient(cluster.endpoints) as client:

        async def abandon(number: int) -> bool:
            (question,) = questions(1, seed=number, longest=1000, most=200)
            try:
                async with asyncio.timeout(0.5 * (number % 100) / 100):
                    await client.generate(
                        list(question.prompt), max_tokens=question.max_tokens, temperature=0
                    )
            except TimeoutError:
                return True
            return False

        abandoned = [
            sum(await asyncio.gather(*(abandon(start + i) for i in range(20))))
            for start in range(0, 300, 20)
        ]
        await eventually(lambda: nothing_is_held(cluster), 1)
    assert sum(abandoned) > 50, "too few were abandoned for this to mean anything"

"""Load on a whole local cluster, and what must hold of it."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import lengthwise
from harness.toy_oracle import toy_continuation
from harness.waiting import eventually
from harness.workers import status_of
from lengthwise_checkpoint.toy import ToySpec
from lengthwise_local import LocalCluster
from lengthwise_wire.v1 import worker_pb2


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A prompt and how much is wanted of it."""

    prompt: tuple[int, ...]
    max_tokens: int

    def answer(self, spec: ToySpec) -> tuple[int, ...]:
        return tuple(toy_continuation(self.prompt, self.max_tokens, spec))


def questions(count: int, *, seed: int, longest: int = 1200, most: int = 80) -> Iterator[Question]:
    """Mixed lengths: most prompts short, some long."""
    rng = random.Random(seed)
    for _ in range(count):
        length = min(int(rng.lognormvariate(4.5, 1.2)) + 1, longest)
        prompt = tuple(rng.randrange(250) for _ in range(length))
        yield Question(prompt=prompt, max_tokens=rng.randint(1, most))


@dataclass(slots=True)
class Load:
    """What became of the requests sent so far."""

    finished: int = 0
    slowest_seconds: float = 0.0
    retried: int = 0
    by_caller: Counter[int] = field(default_factory=Counter)


async def ask(
    client: lengthwise.AsyncClient, question: Question, spec: ToySpec, load: Load
) -> None:
    """Asks one question greedily and checks every token of the answer."""
    started_at = time.monotonic()
    completion = await client.generate(
        list(question.prompt), max_tokens=question.max_tokens, temperature=0, ignore_eos=True
    )
    load.slowest_seconds = max(load.slowest_seconds, time.monotonic() - started_at)
    load.retried += completion.timings.retries
    assert completion.token_ids == question.answer(spec)
    assert [token.index for token in completion.tokens] == list(range(question.max_tokens))
    usage = completion.usage
    assert usage.prompt_tokens == len(question.prompt)
    assert usage.output_tokens == question.max_tokens
    load.finished += 1


async def all_finished_more(load: Load, count: int, *, clients: int) -> None:
    """Waits until each caller of a closed loop has `count` further answers, so that no request that
    was under way still is."""
    before = load.by_caller.copy()
    await eventually(
        lambda: all(load.by_caller[n] >= before[n] + count for n in range(clients)), 40
    )


async def closed_loop(
    client: lengthwise.AsyncClient,
    spec: ToySpec,
    load: Load,
    stop: asyncio.Event,
    *,
    clients: int,
    seed: int,
) -> None:
    """`clients` callers, each asking its next question when the last is answered."""

    async def caller(number: int) -> None:
        for question in questions(10_000, seed=seed + number, longest=600, most=40):
            if stop.is_set():
                return
            await ask(client, question, spec, load)
            load.by_caller[number] += 1

    async with asyncio.TaskGroup() as group:
        for number in range(clients):
            group.create_task(caller(number))


async def statuses(cluster: LocalCluster) -> Sequence[worker_pb2.WorkerStatus]:
    return await asyncio.gather(*(status_of(worker.address) for worker in cluster.workers))


async def nothing_is_held(cluster: LocalCluster) -> bool:
    """Every block of every worker is free and no request waits."""
    return all(
        s.blocks_free == s.blocks_total
        and s.running_requests == 0
        and all(queue.requests == 0 for queue in s.queues)
        for s in await statuses(cluster)
    )

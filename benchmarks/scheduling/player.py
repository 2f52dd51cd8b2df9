"""Plays conversations against a deployment and records what its clients saw.

A request is due when its plan says, and its time to the first token counts from then,
however late this process was; a request that fails ends the play with its error, because numbers of
a play in which requests failed compare nothing.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import lengthwise
from scheduling.traffic import Conversation, LengthClass

REQUEST_SECONDS = 120.0
"""A request that takes longer has failed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One answered request; instants are seconds after the play's beginning."""

    length: LengthClass
    due_at: float
    first_at: float
    ended_at: float
    prompt_tokens: int
    new_tokens: int  # of the prompt, those that were not in the prompt of the turn before
    output_tokens: int
    cached_tokens: int  # of the prompt, those reused from a prefix cache
    retries: int

    @property
    def ttft_seconds(self) -> float:
        return self.first_at - self.due_at

    @property
    def tpot_seconds(self) -> float:
        """(last - first) / (tokens - 1)."""
        return (self.ended_at - self.first_at) / (self.output_tokens - 1)

    def tokens_between(self, begin: float, end: float) -> float:
        """New prompt tokens, which count when the first token comes, and output tokens, taken as
        evenly spread. Reused tokens do not count: every arm has the same to do."""
        prompt = self.new_tokens if begin <= self.first_at < end else 0
        length = max(self.ended_at - self.first_at, 1e-9)
        overlap = min(self.ended_at, end) - max(self.first_at, begin)
        return prompt + self.output_tokens * max(0.0, overlap) / length


class Player:
    """Plays one traffic on one deployment, once."""

    def __init__(self, client: lengthwise.AsyncClient, *, vocab_size: int, stop_at: float) -> None:
        """client: closed at the end. stop_at: no request is begun after so many seconds; those
        begun are awaited."""
        self._client = client
        self._vocab_size = vocab_size
        self._stop_at = stop_at
        self._began = 0.0
        self._samples: list[Sample] = []

    async def open_loop(self, conversations: Sequence[Conversation]) -> list[Sample]:
        """Each conversation starts at its time, whatever became of the others.

        Errors: ExceptionGroup holding that of the first request that failed; TimeoutError.
        """
        async with self._play(), asyncio.TaskGroup() as tasks:
            for conversation in conversations:
                tasks.create_task(self._converse(conversation, conversation.start_at))
        return self._samples

    async def closed_loop(
        self, conversations: Iterator[Conversation], concurrency: int
    ) -> list[Sample]:
        """`concurrency` conversations at any time, without pauses. Errors: as `open_loop`."""

        async def one_after_the_other() -> None:
            while self._now() < self._stop_at:
                await self._converse(next(conversations), None)

        async with self._play(), asyncio.TaskGroup() as tasks:
            for _ in range(concurrency):
                tasks.create_task(one_after_the_other())
        return self._samples

    async def one_by_one(self, conversations: Sequence[Conversation]) -> list[Sample]:
        """Each conversation when the one before has ended. Errors: as `open_loop`."""
        async with self._play():
            for conversation in conversations:
                await self._converse(conversation, None)
        return self._samples

    @asynccontextmanager
    async def _play(self) -> AsyncIterator[None]:
        async with asyncio.timeout(self._stop_at + REQUEST_SECONDS), self._client:
            self._began = time.perf_counter()
            yield

    def _now(self) -> float:
        return time.perf_counter() - self._began

    async def _converse(self, conversation: Conversation, start_at: float | None) -> None:
        """start_at None: at once, and without thinking between turns."""
        history: list[int] = []
        due_at = self._now() if start_at is None else start_at
        for index, turn in enumerate(conversation.turns):
            if index:
                due_at = self._now() + (0.0 if start_at is None else turn.think_seconds)
            if due_at >= self._stop_at:
                return
            history += conversation.says(index, self._vocab_size)
            await asyncio.sleep(due_at - self._now())
            history += await self._ask(conversation, index, history, due_at)

    async def _ask(
        self, conversation: Conversation, index: int, prompt: list[int], due_at: float
    ) -> list[int]:
        """The reply's tokens; the sample is kept."""
        wanted = conversation.turns[index].reply_tokens
        first_at, usage, timings = 0.0, None, None
        reply: list[int] = []
        async for chunk in self._client.stream(
            prompt,
            max_tokens=wanted,
            temperature=0.0,
            ignore_eos=True,
            timeout=REQUEST_SECONDS,
        ):
            if chunk.tokens and not reply:
                first_at = self._now()
            reply += chunk.token_ids
            usage, timings = chunk.usage, chunk.timings
        if len(reply) != wanted or usage is None or timings is None:
            raise RuntimeError(f"got {len(reply)} tokens, expected {wanted} and their usage")
        sample = Sample(
            length=conversation.length_class(index),
            due_at=due_at,
            first_at=first_at,
            ended_at=self._now(),
            prompt_tokens=len(prompt),
            new_tokens=conversation.new_tokens(index),
            output_tokens=len(reply),
            cached_tokens=usage.cached_prompt_tokens,
            retries=timings.retries,
        )
        self._samples.append(sample)
        return reply

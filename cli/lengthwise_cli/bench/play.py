"""Sends a plan's requests when they are due, whatever became of the others: an open loop, as many
independent clients are one."""

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import islice

from lengthwise.aio import AsyncClient
from lengthwise.types import Chunk
from lengthwise_cli.bench.plan import PlannedRequest
from lengthwise_cli.bench.run import RequestResult
from lengthwise_cli.bench.texts import PromptTexts
from lengthwise_wire.errors import LengthwiseError


class Player:
    """Plays one plan, once."""

    def __init__(
        self,
        client: AsyncClient,
        *,
        vocab_size: int,
        short_tokens: int,
        max_in_flight: int,
        seed: int,
        on_end: Callable[[RequestResult], None],
    ) -> None:
        """short_tokens: tokens to compute up to which a request is short. on_end: told of
        every request that ended."""
        self._client = client
        self._vocab_size = vocab_size
        self._short_tokens = short_tokens
        self._slots = asyncio.Semaphore(max_in_flight)
        self._source = random.Random(seed)
        self._texts = PromptTexts(vocab_size, seed)
        self._on_end = on_end

    async def play(self, plan: Sequence[PlannedRequest]) -> None:
        """Returns when every request has ended, follow-ups too: each is due after the reply to the
        one before, and is left out where that failed. Cancelled, it ends those in flight at once.
        """
        self._began = time.perf_counter()
        async with asyncio.TaskGroup() as tasks:
            for planned in sorted(plan, key=lambda planned: planned.due_at):
                await asyncio.sleep(planned.due_at - self._now())
                await self._slots.acquire()
                tasks.create_task(self._converse(planned, self._prompt(planned)))

    def _now(self) -> float:
        return time.perf_counter() - self._began

    def _prompt(self, planned: PlannedRequest) -> list[int]:
        if planned.text:
            return self._texts.token_ids(planned.text, planned.prompt_tokens)
        return self._source.choices(range(self._vocab_size), k=planned.prompt_tokens)

    async def _converse(self, planned: PlannedRequest, prompt: list[int]) -> None:
        result = await self._ask(planned, prompt)
        for turn in islice(planned.turns(), 1, None):
            if result.error:
                return
            due_at = self._now() + turn.think_seconds
            await asyncio.sleep(turn.think_seconds)
            await self._slots.acquire()
            result = await self._ask(replace(turn, due_at=due_at), self._prompt(turn))

    async def _ask(self, planned: PlannedRequest, prompt: list[int]) -> RequestResult:
        sent_at, first_at, last_at = self._now(), 0.0, 0.0
        num_tokens, error = 0, ""
        last: Chunk | None = None
        try:
            async for chunk in self._client.stream(
                prompt,
                max_tokens=planned.output_tokens,
                temperature=0.0,
                ignore_eos=True,
            ):
                last = chunk
                if chunk.tokens:
                    last_at = self._now()
                    first_at = first_at or last_at
                    num_tokens += len(chunk.tokens)
        except LengthwiseError as failure:
            error = f"{type(failure).__name__}: {failure}"
        finally:
            self._slots.release()
        cached = last.usage.cached_prompt_tokens if last is not None and last.usage else 0
        retries = last.timings.retries if last is not None and last.timings else 0
        is_short = planned.prompt_tokens - cached <= self._short_tokens
        result = RequestResult(
            due_at=planned.due_at,
            sent_late=sent_at - planned.due_at,
            length_class="short" if is_short else "long",
            prompt_tokens=planned.prompt_tokens,
            cached_tokens=cached,
            output_tokens=num_tokens,
            ttft=first_at - planned.due_at if first_at else 0.0,
            tpot=(last_at - first_at) / (num_tokens - 1) if num_tokens > 1 else 0.0,
            total=self._now() - planned.due_at,
            retries=retries,
            error=error,
        )
        self._on_end(result)
        return result

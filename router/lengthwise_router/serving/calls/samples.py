"""The samples of one call, side by side, whose responses are one stream."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AbstractContextManager, ExitStack, aclosing, nullcontext
from typing import Final

from lengthwise_router.config import RouterConfig
from lengthwise_router.serving.calls.shared_prompt import SharedPrompt
from lengthwise_router.serving.deadline import RequestDeadline
from lengthwise_wire.errors import InvalidRequest
from lengthwise_wire.limits import MAX_SAMPLED_TOKENS
from lengthwise_wire.v1 import inference_pb2

Responses = AsyncGenerator[inference_pb2.GenerateResponse]

_Item = inference_pb2.GenerateResponse | Exception | None
"""Of a sample: what comes of it, or why it has failed, or that it is over."""

MAX_WAITING: Final = 16
"""Responses that wait for the caller to take one; then those who have more wait, and tokens gather
where they do for a caller of one sample."""


class Samples:
    """Each is a task: the first error ends them all."""

    def __init__(self) -> None:
        self.prompt = SharedPrompt()
        self._waiting: asyncio.Queue[_Item] = asyncio.Queue(MAX_WAITING)
        self._tasks: list[asyncio.Task[None]] = []
        self._held = ExitStack()

    def add(self, responses: Responses) -> None:
        """One sample more; a sample may add others while it goes on."""
        self._tasks.append(asyncio.create_task(self._run(responses)))

    def holding(self, usage: AbstractContextManager[None]) -> AbstractContextManager[None]:
        """Enters a context now that ends with the last sample, and not with what is returned."""
        self._held.enter_context(usage)
        return nullcontext()

    async def stream(self, first: Responses, deadline: RequestDeadline) -> Responses:
        """All responses of the `first` sample and of those that it adds, each as soon as those
        before it are taken; the caller's stream is kept alive between them. Errors: the first of
        any sample."""
        self.add(first)
        num_ended = 0
        try:
            while num_ended < len(self._tasks):
                try:
                    response = self._waiting.get_nowait()
                except asyncio.QueueEmpty:
                    response = await self._next(deadline)
                if isinstance(response, Exception):
                    raise response
                if response is None:
                    num_ended += 1
                else:
                    yield response
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            self._held.close()

    async def _next(self, deadline: RequestDeadline) -> _Item:
        while True:
            try:
                async with asyncio.timeout(deadline.keepalive_seconds):
                    return await self._waiting.get()
            except TimeoutError:
                await deadline.keep_alive()

    async def _run(self, responses: Responses) -> None:
        end: Exception | None = None
        try:
            async with aclosing(responses):
                async for response in responses:
                    await self._waiting.put(response)
        except Exception as error:
            end = error
        await self._waiting.put(end)


def check_choices(n: int, num_prompt_tokens: int, config: RouterConfig) -> None:
    """Errors: InvalidRequest for more choices than there will ever be room for."""
    most = config.max_requests_in_flight + config.max_queued
    if n > most:
        raise InvalidRequest(
            f"n: got {n}, expected at most {most}, which is how many requests this router"
            " takes at a time, those that wait included"
        )
    if n * num_prompt_tokens > MAX_SAMPLED_TOKENS:
        raise InvalidRequest(
            f"n: got {n} for a prompt of {num_prompt_tokens} tokens, expected at most"
            f" {MAX_SAMPLED_TOKENS} tokens in the prompts of all choices together"
        )

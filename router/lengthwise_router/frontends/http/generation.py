"""One call that generates: its requests run side by side through the service, and its answer is
written whole or as events."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import Protocol

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from lengthwise_router.frontends.http.answers import Write
from lengthwise_router.frontends.http.errors import ErrorAnswer, FieldNames, error_answer
from lengthwise_router.frontends.http.front import (
    EventStream,
    ended_by_hang_up,
    first_error,
    names_of,
)
from lengthwise_router.serving.service import InferenceService
from lengthwise_router.tenants import Caller
from lengthwise_runtime.calls.places import Count
from lengthwise_wire.errors import Overloaded
from lengthwise_wire.v1 import inference_pb2

Take = Callable[[int, inference_pb2.GenerateResponse], Awaitable[None]]
KeepAlive = Callable[[], Awaitable[None]]


class Taking(Protocol):
    """What is done with the pieces of answers."""

    async def take(self, index: int, response: inference_pb2.GenerateResponse) -> None:
        """The next piece of one. Errors: LengthwiseError."""

    async def keep_alive(self) -> None:
        """Nothing has come for a while."""


class Collecting(Taking, Protocol):
    """They are kept until all have come."""

    @property
    def is_large(self) -> bool:
        """Whether the body takes long enough to be made in a thread."""

    def body(self) -> bytes:
        """Of the whole response."""


class Streaming(Taking, Protocol):
    """They are written as events, each when it comes."""

    @property
    def has_begun(self) -> bool:
        """Whether the status has been told."""

    async def finish(self) -> None:
        """All have come."""

    async def fail(self, error: ErrorAnswer) -> None:
        """No more will come."""


class Answering(Protocol):
    """How an endpoint answers one call."""

    def collected(self) -> Collecting:
        """As a whole."""

    def events(self, write: Write) -> Streaming:
        """As events."""


class Generating:
    """How the requests of a call are served."""

    def __init__(
        self, service: InferenceService, *, deadline_seconds: float, caller: Caller, user: str
    ) -> None:
        self._service = service
        self._deadline_seconds = deadline_seconds
        self._caller = caller
        self._user = user

    async def run(
        self,
        requests: Sequence[inference_pb2.GenerateRequest],
        take: Take,
        keep_alive: KeepAlive,
    ) -> None:
        """All of them; the first error ends the others. Errors: LengthwiseError."""
        if len(requests) == 1:
            await self._run(0, requests[0], take, keep_alive)
            return
        num_choices = max(requests[0].n, 1)
        try:
            async with asyncio.TaskGroup() as group:
                for index, request in enumerate(requests):
                    first = index * num_choices
                    group.create_task(self._run(first, request, take, keep_alive))
        except BaseExceptionGroup as errors:
            raise first_error(errors) from None

    async def _run(
        self,
        first: int,
        request: inference_pb2.GenerateRequest,
        take: Take,
        keep_alive: KeepAlive,
    ) -> None:
        """`first`: the index of its first choice."""
        responses = self._service.generate(
            request,
            deadline_seconds=self._deadline_seconds,
            keepalive=keep_alive,
            caller=self._caller,
            user=self._user,
        )
        async with aclosing(responses):
            async for response in responses:
                try:
                    await take(first + response.choice, response)
                except Overloaded as unread:
                    await responses.athrow(unread)  # so that it is counted as ended by it


class GenerationResponse(Response):
    """The answer to a call, which is computed while it is sent."""

    def __init__(
        self,
        generating: Generating,
        requests: list[inference_pb2.GenerateRequest],
        answering: Answering,
        count: Count,
        *,
        streams: bool,
    ) -> None:
        super().__init__()
        self._generating = generating
        self._requests = requests
        self._answering = answering
        self._count = count
        self._streams = streams

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Errors: LengthwiseError while nothing has been sent."""
        requests, self._requests = self._requests, []
        async with ended_by_hang_up(receive):
            if self._streams:
                await self._stream(requests, EventStream(scope, send, self._count), names_of(scope))
                return
            collected = self._answering.collected()
            await self._generating.run(requests, collected.take, collected.keep_alive)
            body = collected.body
            made = await asyncio.to_thread(body) if collected.is_large else body()
            whole = Response(made, media_type="application/json")
            await whole(scope, receive, send)

    async def _stream(
        self,
        requests: list[inference_pb2.GenerateRequest],
        stream: EventStream,
        names: FieldNames,
    ) -> None:
        events = self._answering.events(stream.write)
        try:
            await self._generating.run(requests, events.take, events.keep_alive)
        except Exception as error:
            if not events.has_begun:
                raise
            await events.fail(error_answer(error, names))
        else:
            await events.finish()
        await stream.end()

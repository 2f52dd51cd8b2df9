"""One call that generates: its requests run side by side through the service, and its answer is
written whole or as events."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from lengthwise_router.frontends.http.answers import Call, Collected, Events, Shape
from lengthwise_router.frontends.http.errors import error_answer
from lengthwise_router.frontends.http.front import EventStream, ended_by_hang_up, first_error
from lengthwise_router.serving.service import InferenceService
from lengthwise_router.tenants import Caller
from lengthwise_runtime.calls.places import Count
from lengthwise_wire.errors import Overloaded
from lengthwise_wire.v1 import inference_pb2

Take = Callable[[int, inference_pb2.GenerateResponse], Awaitable[None]]
KeepAlive = Callable[[], Awaitable[None]]


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
        try:
            async with asyncio.TaskGroup() as group:
                for index, request in enumerate(requests):
                    group.create_task(self._run(index, request, take, keep_alive))
        except BaseExceptionGroup as errors:
            raise first_error(errors) from None

    async def _run(
        self,
        index: int,
        request: inference_pb2.GenerateRequest,
        take: Take,
        keep_alive: KeepAlive,
    ) -> None:
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
                    await take(index, response)
                except Overloaded as unread:
                    await responses.athrow(unread)  # so that it is counted as ended by it


class GenerationResponse(Response):
    """The answer to a call, which is computed while it is sent."""

    def __init__(
        self,
        generating: Generating,
        requests: list[inference_pb2.GenerateRequest],
        call: Call,
        shape: Shape,
        count: Count,
        *,
        streams: bool,
        include_usage: bool,
    ) -> None:
        super().__init__()
        self._generating = generating
        self._requests = requests
        self._call = call
        self._shape = shape
        self._count = count
        self._streams = streams
        self._include_usage = include_usage

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Errors: LengthwiseError while nothing has been sent."""
        requests, self._requests = self._requests, []
        async with ended_by_hang_up(receive):
            if self._streams:
                await self._stream(requests, EventStream(scope, send, self._count))
                return
            collected = Collected(self._call, self._shape)
            await self._generating.run(requests, collected.take, collected.keep_alive)
            body = collected.body
            made = await asyncio.to_thread(body) if collected.is_large else body()
            whole = Response(made, media_type="application/json")
            await whole(scope, receive, send)

    async def _stream(
        self, requests: list[inference_pb2.GenerateRequest], stream: EventStream
    ) -> None:
        events = Events(self._call, self._shape, stream.write, include_usage=self._include_usage)
        try:
            await self._generating.run(requests, events.take, events.keep_alive)
        except Exception as error:
            if not events.has_begun:
                raise
            await events.fail(error_answer(error))
        else:
            await events.finish()
        await stream.end()

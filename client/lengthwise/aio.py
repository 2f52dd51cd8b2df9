"""The asynchronous client: the verbs of `Client`, to be awaited."""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import Self, TypeVar, Unpack

from lengthwise._calls import Calls
from lengthwise._grpc.aio import GrpcAioTransport
from lengthwise._grpc.channel import DEFAULT_ENDPOINT, parse_endpoints
from lengthwise._retries import Inquiry, Retries
from lengthwise._session import Session, join
from lengthwise._wire import requests, responses
from lengthwise._wire.conversations import check_conversation
from lengthwise.explanation import Explanation
from lengthwise.settings import Retry, Timeout, Tls
from lengthwise.status import RouterStatus
from lengthwise.transport import AsyncTransport
from lengthwise.types import Chunk, Completion, Conversation, Model, Options, Prompt
from lengthwise_wire.errors import LengthwiseError
from lengthwise_wire.v1 import inference_pb2 as pb

T = TypeVar("T")


class AsyncClient:
    """Talks to the routers of one deployment, from one event loop.

    async with AsyncClient("router:50051") as client:
        completion = await client.generate("Once upon a time", max_tokens=64)
        async for chunk in client.stream([Message("user", "Why is the sky blue?")]):
            print(chunk.text, end="", flush=True)

    Cancelling a task cancels its request at once, in every phase. Lost routers: see `Client`.
    """

    def __init__(
        self,
        endpoints: str | Sequence[str] = DEFAULT_ENDPOINT,
        *,
        tls: Tls | None = None,
        timeout: Timeout | float | None = None,
        retry: Retry | None = None,
        model: str | None = None,
        api_key: str | None = None,
        transports: Sequence[AsyncTransport] | None = None,
    ) -> None:
        """As `Client`; needs no running event loop yet."""
        timeout, retry = Timeout.of(timeout), Retry.of(retry)
        self._transports = transports or [
            GrpcAioTransport(target, tls=tls, connect_seconds=timeout.connect, api_key=api_key)
            for target in parse_endpoints(endpoints)
        ]
        self._calls = Calls(len(self._transports), timeout, retry, model)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Cancels what still runs, and disconnects."""
        for transport in self._transports:
            await transport.close()

    async def generate(self, prompt: Prompt, **options: Unpack[Options]) -> Completion:
        """Continues a prompt, and returns when all is there. See `Client.generate`."""
        completion = join([chunk async for chunk in self.stream(prompt, **options)])
        return responses.parsed(completion, options)

    def stream(self, prompt: Prompt, **options: Unpack[Options]) -> AsyncGenerator[Chunk, None]:
        """Continues a prompt piece by piece. Leaving the loop, or `aclose()`, cancels the request
        at once. See `Client.stream`."""
        return self._run(self._calls.session(prompt, options, time.monotonic()))

    async def chat(self, messages: Conversation, **options: Unpack[Options]) -> Completion:
        """`generate` with a conversation as its prompt, under its common name. With `tools`, the
        completion has `tool_calls`, and `message`, which the conversation goes on from.

        Errors: as `generate`; InvalidRequest for a text.
        """
        check_conversation(messages)
        return await self.generate(messages, **options)

    async def tokenize(
        self,
        prompt: Prompt,
        *,
        model: str | None = None,
        timeout: Timeout | float | None = None,  # noqa: ASYNC109  (the server gets it too)
    ) -> list[int]:
        """The token ids that `generate` would compute."""
        request = requests.tokenize_request(prompt, self._calls.model(model))
        retries = self._calls.retries(timeout, time.monotonic())
        response = await self._unary(
            retries, lambda transport, left: transport.tokenize(request, left)
        )
        return list(response.token_ids)

    async def model(
        self,
        name: str | None = None,
        *,
        timeout: Timeout | float | None = None,  # noqa: ASYNC109  (the server gets it too)
    ) -> Model:
        """A served model: by its name, or the only one."""
        request = requests.model_request(self._calls.model(name))
        retries = self._calls.retries(timeout, time.monotonic())
        response = await self._unary(
            retries, lambda transport, left: transport.get_model(request, left)
        )
        return responses.model(response)

    async def models(
        self,
        *,
        timeout: Timeout | float | None = None,  # noqa: ASYNC109  (the server gets it too)
    ) -> list[Model]:
        """All that is served, by name."""
        request = pb.ListModelsRequest()
        retries = self._calls.retries(timeout, time.monotonic())
        response = await self._unary(
            retries, lambda transport, left: transport.list_models(request, left)
        )
        return [responses.model(each) for each in response.models]

    async def explain(
        self,
        request_id: str,
        *,
        tenant: str | None = None,
        model: str | None = None,
        timeout: Timeout | float | None = None,  # noqa: ASYNC109  (the server gets it too)
    ) -> Explanation:
        """The life of a request that one of the routers served lately; each is asked in turn.
        `tenant`, `model`: as the request's; the model may be left out unless requests to several
        had this id.

        Errors: RequestNotFound when no router remembers it; another LengthwiseError when one could
        not be asked and the others do not know.
        """
        request = requests.explain_request(request_id, tenant, self._calls.model(model))
        inquiry = self._calls.inquiry(timeout, time.monotonic())
        response = await self._unary(
            inquiry, lambda transport, left: transport.explain(request, left)
        )
        return responses.explanation(response)

    async def status(
        self,
        *,
        timeout: Timeout | float | None = None,  # noqa: ASYNC109  (the server gets it too)
    ) -> RouterStatus:
        """What one of the routers knows of its workers, and how long its requests took."""
        request = pb.GetStatusRequest()
        retries = self._calls.retries(timeout, time.monotonic())
        response = await self._unary(
            retries, lambda transport, left: transport.get_status(request, left)
        )
        return responses.status(response)

    async def _run(self, session: Session) -> AsyncGenerator[Chunk, None]:
        while not session.finished:
            attempt, request = session.begin(time.monotonic())
            transport = self._transports[attempt.endpoint]
            try:
                async with aclosing(transport.generate(request, attempt.patience)) as responses:
                    async for response in responses:
                        chunk = session.receive(response)
                        if chunk is not None:
                            yield chunk
                session.ended()
            except LengthwiseError as error:
                await asyncio.sleep(session.fail(error, time.monotonic()))

    async def _unary(
        self, schedule: Retries | Inquiry, call: Callable[[AsyncTransport, Timeout], Awaitable[T]]
    ) -> T:
        while True:
            attempt = schedule.begin(time.monotonic())
            try:
                return await call(self._transports[attempt.endpoint], attempt.patience)
            except LengthwiseError as error:
                await asyncio.sleep(schedule.fail(error, time.monotonic()))

"""Both clients behind one synchronous face: what one promises, the other must keep."""

import asyncio
from collections.abc import Sequence
from typing import Protocol, Unpack

from lengthwise import AsyncClient, Chunk, Client, Explanation, Model, Options, Prompt, Retry


class Caller(Protocol):
    """One of the clients, made for a single call."""

    def stream(
        self,
        endpoints: str | Sequence[str],
        prompt: Prompt,
        *,
        retry: Retry | None = None,
        **options: Unpack[Options],
    ) -> list[Chunk]: ...

    def tokenize(self, endpoints: str | Sequence[str], prompt: Prompt) -> list[int]: ...

    def model(self, endpoints: str | Sequence[str]) -> Model: ...

    def explain(self, endpoints: str | Sequence[str], request_id: str) -> Explanation: ...


class SyncCaller:
    def stream(
        self,
        endpoints: str | Sequence[str],
        prompt: Prompt,
        *,
        retry: Retry | None = None,
        **options: Unpack[Options],
    ) -> list[Chunk]:
        with Client(endpoints, retry=retry) as client:
            return list(client.stream(prompt, **options))

    def tokenize(self, endpoints: str | Sequence[str], prompt: Prompt) -> list[int]:
        with Client(endpoints) as client:
            return client.tokenize(prompt)

    def model(self, endpoints: str | Sequence[str]) -> Model:
        with Client(endpoints) as client:
            return client.model()

    def explain(self, endpoints: str | Sequence[str], request_id: str) -> Explanation:
        with Client(endpoints) as client:
            return client.explain(request_id)


class AsyncCaller:
    def stream(
        self,
        endpoints: str | Sequence[str],
        prompt: Prompt,
        *,
        retry: Retry | None = None,
        **options: Unpack[Options],
    ) -> list[Chunk]:
        async def run() -> list[Chunk]:
            async with AsyncClient(endpoints, retry=retry) as client:
                return [chunk async for chunk in client.stream(prompt, **options)]

        return asyncio.run(run())

    def tokenize(self, endpoints: str | Sequence[str], prompt: Prompt) -> list[int]:
        async def run() -> list[int]:
            async with AsyncClient(endpoints) as client:
                return await client.tokenize(prompt)

        return asyncio.run(run())

    def model(self, endpoints: str | Sequence[str]) -> Model:
        async def run() -> Model:
            async with AsyncClient(endpoints) as client:
                return await client.model()

        return asyncio.run(run())

    def explain(self, endpoints: str | Sequence[str], request_id: str) -> Explanation:
        async def run() -> Explanation:
            async with AsyncClient(endpoints) as client:
                return await client.explain(request_id)

        return asyncio.run(run())

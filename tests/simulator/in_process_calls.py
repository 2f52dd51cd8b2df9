"""gRPC without a network: servicers of one process, called through objects that look like
channels. Each message is under way for a fixed time."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

END = object()


class _Context:
    def __init__(self, seconds: float | None) -> None:
        self._seconds = seconds

    def time_remaining(self) -> float | None:
        return self._seconds

    def invocation_metadata(self) -> tuple[()]:
        return ()


class InProcessServer:
    """What servicers are registered on."""

    def __init__(self) -> None:
        self.methods: dict[str, Any] = {}

    def add_generic_rpc_handlers(self, handlers: object) -> None:
        """The same methods come by name."""

    def add_registered_method_handlers(self, service: str, methods: dict[str, Any]) -> None:
        self.methods |= {f"/{service}/{name}": method for name, method in methods.items()}


class InProcessNetwork:
    """Servers by address. `on_call` sees every single request, with the address of its server."""

    def __init__(self, seconds: float, on_call: Callable[[str, Any], None]) -> None:
        self.servers: dict[str, InProcessServer] = {}
        self.tasks: set[asyncio.Task[Any]] = set()
        self.seconds = seconds
        self.on_call = on_call

    def channel(self, address: str, tls: object) -> "_Channel":
        """In the place of `open_channel`."""
        return _Channel(self, address)

    def spawn(self, coroutine: Any) -> "asyncio.Task[Any]":
        task: asyncio.Task[Any] = asyncio.ensure_future(coroutine)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return task

    async def close(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


class _Channel:
    def __init__(self, network: InProcessNetwork, address: str) -> None:
        self._network = network
        self._address = address

    def _method(self, path: str) -> Any:
        return self._network.servers[self._address].methods[path]

    def unary_unary(self, path: str, *_: Any, **__: Any) -> Any:
        network = self._network

        async def call(request: Any, seconds: float | None) -> Any:
            await asyncio.sleep(network.seconds)
            network.on_call(self._address, request)
            response = await self._method(path).unary_unary(request, _Context(seconds))
            await asyncio.sleep(network.seconds)
            return response

        def begin(request: Any, timeout: float | None = None, metadata: object = None) -> Any:
            return network.spawn(call(request, timeout))

        return begin

    def unary_stream(self, path: str, *_: Any, **__: Any) -> Any:
        def begin(request: Any, timeout: float | None = None) -> AsyncIterator[Any]:
            async def responses() -> AsyncIterator[Any]:
                await asyncio.sleep(self._network.seconds)
                answers = self._method(path).unary_stream(request, _Context(timeout))
                async for response in self._delayed(answers):
                    yield response

            return responses()

        return begin

    def stream_stream(self, path: str, *_: Any, **__: Any) -> Any:
        def begin(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
            delayed = self._delayed(requests)
            return self._delayed(self._method(path).stream_stream(delayed, _Context(None)))

        return begin

    async def _delayed(self, messages: AsyncIterator[Any]) -> AsyncIterator[Any]:
        """Each so much later, in their order."""
        queue: asyncio.Queue[tuple[float, Any]] = asyncio.Queue()
        loop, seconds = asyncio.get_running_loop(), self._network.seconds

        async def carry() -> None:
            end: object = END
            try:
                async for message in messages:
                    queue.put_nowait((loop.time() + seconds, message))
            except Exception as error:
                end = error
            queue.put_nowait((loop.time() + seconds, end))

        carrier = self._network.spawn(carry())
        try:
            while True:
                arrives_at, message = await queue.get()
                await asyncio.sleep(arrives_at - loop.time())
                if message is END:
                    return
                if isinstance(message, Exception):
                    raise message
                yield message
        finally:
            carrier.cancel()

    async def close(self, grace: object) -> None:
        """Nothing is open."""

"""The adapter for gRPC: what a client that stops reading costs, and for how long."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from harness.waiting import eventually

from lengthwise_router.frontends.grpc.servicer import InferenceServicer
from lengthwise_router.tenants import UNKNOWN, Caller
from lengthwise_runtime.calls.bounded_call import BoundedCall
from lengthwise_wire.errors import Overloaded
from lengthwise_wire.v1 import inference_pb2


class EndlessService:
    """Responds for ever, and notes that it was closed."""

    def __init__(self) -> None:
        self.deadline_seconds = 0.0
        self.is_closed = False
        self.error: BaseException | None = None

    def caller(self, *_: object) -> Caller:
        return UNKNOWN

    async def generate(
        self, _: object, *, deadline_seconds: float, keepalive: object, caller: object
    ) -> AsyncIterator[inference_pb2.GenerateResponse]:
        self.deadline_seconds = deadline_seconds
        try:
            while True:
                yield inference_pb2.GenerateResponse(token_ids=[1])
        except BaseException as error:
            self.error = error
            raise
        finally:
            self.is_closed = True


class UnreadContext:
    """A call whose client reads two messages and no third."""

    def __init__(self, remaining_seconds: float | None) -> None:
        self._remaining_seconds = remaining_seconds
        self.num_written = 0

    def time_remaining(self) -> float | None:
        return self._remaining_seconds

    def auth_context(self) -> dict[str, list[bytes]]:
        return {}

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        return ()

    async def write(self, _: object) -> None:
        if self.num_written == 2:
            await asyncio.Event().wait()
        self.num_written += 1


async def test_a_write_that_is_never_taken_ends_the_request_by_its_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("lengthwise_runtime.calls.bounded_call.UNREAD_SECONDS", 0.1)
    service, context = EndlessService(), UnreadContext(None)
    servicer: Any = InferenceServicer(service, 0.2)  # type: ignore[arg-type]
    call = BoundedCall(context, lambda _: None)
    with pytest.raises(Overloaded, match="took no message"):
        await asyncio.wait_for(servicer.Generate(inference_pb2.GenerateRequest(), call), 5)
    assert context.num_written == 2
    assert service.is_closed
    assert isinstance(service.error, Overloaded)


async def test_a_call_cancelled_during_a_write_closes_the_request_at_once() -> None:
    service, context = EndlessService(), UnreadContext(60.0)
    servicer: Any = InferenceServicer(service, 0.2)  # type: ignore[arg-type]
    call = asyncio.create_task(servicer.Generate(inference_pb2.GenerateRequest(), context))
    await eventually(lambda: context.num_written == 2)
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)
    assert call.cancelled()
    assert service.is_closed
    assert 59.9 < service.deadline_seconds < 60.0  # so that its reason comes in time

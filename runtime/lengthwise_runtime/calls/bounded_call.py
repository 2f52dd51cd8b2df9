"""One call as handlers see it: what its caller does not take ends it."""

import asyncio
from typing import Any

import grpc

from lengthwise_runtime.calls.acceptor import end_call
from lengthwise_runtime.calls.places import RETRY_SECONDS, Count
from lengthwise_wire.errors import Overloaded

UNREAD_SECONDS = 10.0
"""A message that is not taken for so long ends its call. Clients of gRPC buffer 64 KiB, a thousand
tokens, before one waits; a caller that is gone is noticed in 5 s."""

MAX_DETAIL_BYTES = 2000
"""Of an error's message. gRPC sends it with up to three bytes for one, in headers, and refuses
headers from 8 KiB on with an error of its own."""


class BoundedCall:
    """A `ServicerContext` whose `write` waits `UNREAD_SECONDS` at most."""

    def __init__(self, context: Any, count: Count) -> None:
        self._context = context
        self._count = count
        self._is_unread = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    async def write(self, message: Any) -> None:
        """Errors: Overloaded when the caller does not take it."""
        try:
            async with asyncio.timeout(UNREAD_SECONDS):
                await self._context.write(message)
        except TimeoutError:
            self._is_unread = True
            self._count("unread")
            raise Overloaded(
                f"the caller took no message for {UNREAD_SECONDS:g} s; go on where it ended",
                RETRY_SECONDS,
            ) from None
        except grpc.aio.InternalError as error:
            raise asyncio.CancelledError("the caller hung up") from error

    async def abort(
        self, code: grpc.StatusCode, details: str = "", metadata: tuple[tuple[str, str], ...] = ()
    ) -> None:
        """Ends the call with this status, or without one where its caller takes nothing at all."""
        try:
            async with asyncio.timeout(UNREAD_SECONDS):
                await self._context.abort(code, fitting(details), metadata)
        except (TimeoutError, grpc.aio.InternalError):
            # The status waits behind the unread message, or is refused while that one opens the
            # stream; or the caller has hung up.
            if self._is_unread:
                end_call()
            raise asyncio.CancelledError from None


def fitting(details: str) -> str:
    """The beginning and the end of an error's message that is too long."""
    text = details.encode(errors="replace")
    if len(text) <= MAX_DETAIL_BYTES:
        return text.decode()
    end = MAX_DETAIL_BYTES // 4
    head, tail = text[: MAX_DETAIL_BYTES - end], text[-end:]
    return f"{head.decode(errors='ignore')} … {tail.decode(errors='ignore')}"

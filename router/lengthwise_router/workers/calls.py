"""What a call to a worker came to."""

import asyncio
from typing import Any

import grpc

from lengthwise_wire.errors import Cancelled, from_status


async def result_of(call: Any) -> Any:
    """The worker's response. Errors: LengthwiseError, as the worker raised it; Cancelled when the
    call was cancelled on this side, and not the task that waits."""
    try:
        return await call
    except grpc.aio.AioRpcError as error:
        pairs: Any = error.trailing_metadata() or ()
        metadata = {str(key): str(value) for key, value in pairs}
        raise from_status(error.code(), error.details() or "", metadata) from error
    except asyncio.CancelledError:
        if not call.cancelled():
            raise
        raise Cancelled("the call was cancelled") from None

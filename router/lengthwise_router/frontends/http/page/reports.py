"""What a router tells of a request and of its workers, as JSON."""

import asyncio
import json
import time
from typing import Any, Final

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from starlette.requests import Request
from starlette.responses import Response

from lengthwise_router.serving.service import InferenceService
from lengthwise_router.tenants import Caller
from lengthwise_wire.v1 import inference_pb2

STATUS_SECONDS: Final = 0.5
"""Workers report as often. One status of 512 workers is 0.1 s of work."""


class Reports:
    """Of one router."""

    def __init__(self, service: InferenceService) -> None:
        self._service = service
        self._turn = asyncio.Lock()
        self._status = b""
        self._status_at = float("-inf")

    def explanation(self, request: Request, caller: Caller) -> Response:
        """Errors: InvalidRequest, RequestNotFound."""
        asked = inference_pb2.ExplainRequest(
            request_id=request.path_params["request_id"],
            tenant=request.query_params.get("tenant", ""),
            model=request.query_params.get("model", ""),
        )
        return _response(_json(self._service.explain(asked, caller)))

    async def status(self, caller: Caller) -> Response:
        """Made beside the event loop, and once for all who ask at about the same time. Errors:
        PermissionDenied."""
        caller.check_admin()
        async with self._turn:
            if time.monotonic() - self._status_at > STATUS_SECONDS:
                self._status = await asyncio.to_thread(_json, self._service.status(caller))
                self._status_at = time.monotonic()
        return _response(self._status)


def _json(message: Message) -> bytes:
    """With the names of the message's fields, those that are not set included."""
    fields: dict[str, Any] = MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    return json.dumps(fields).encode()


def _response(body: bytes) -> Response:
    return Response(body, media_type="application/json", headers={"cache-control": "no-store"})

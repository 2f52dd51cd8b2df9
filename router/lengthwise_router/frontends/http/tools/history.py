"""Calls and their results in the messages of a conversation."""

from typing import Any, Final

from lengthwise_router.frontends.http.errors import HttpError
from lengthwise_router.frontends.http.options import shown, text
from lengthwise_wire.errors import InvalidRequest
from lengthwise_wire.v1 import inference_pb2

MAX_CALLS: Final = 128
"""Of one message."""


def tool_fields(message: dict[str, Any], role: str, field: str) -> dict[str, Any]:
    """Of the wire's message, beside its role and content. Errors: HttpError, InvalidRequest."""
    fields: dict[str, Any] = {}
    if calls := message.get("tool_calls"):
        if role != "assistant":
            raise InvalidRequest(f"{field}.tool_calls: only messages with role 'assistant' have it")
        fields["tool_calls"] = _calls(calls, f"{field}.tool_calls")
    if role == "tool":
        for name in ("tool_call_id", "name"):
            if message.get(name) is not None:
                fields[name] = text(f"{field}.{name}", message[name])
        if not fields.get("tool_call_id"):
            raise HttpError(
                400, f"Missing required parameter: '{field}.tool_call_id'.",
                param=f"{field}.tool_call_id", code="missing_required_parameter",
            )  # fmt: skip
    if role == "assistant" and message.get("reasoning_content") is not None:
        fields["reasoning_content"] = text(
            f"{field}.reasoning_content", message["reasoning_content"]
        )
    return fields


def _calls(calls: object, field: str) -> list[inference_pb2.ToolCall]:
    if not isinstance(calls, list):
        raise InvalidRequest(f"{field}: got {shown(calls)}, expected an array of calls")
    if len(calls) > MAX_CALLS:
        raise InvalidRequest(f"{field}: got {len(calls)} calls, expected at most {MAX_CALLS}")
    return [_call(call, f"{field}[{index}]") for index, call in enumerate(calls)]


def _call(call: object, field: str) -> inference_pb2.ToolCall:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(call, dict) or not isinstance(function, dict):
        raise InvalidRequest(f"{field}: got {shown(call)}, expected a call of a function")
    if call.get("type", "function") != "function":
        raise InvalidRequest(f"{field}.type: got {shown(call['type'])}, expected 'function'")
    return inference_pb2.ToolCall(
        id=text(f"{field}.id", call.get("id")),
        name=text(f"{field}.function.name", function.get("name")),
        arguments=text(f"{field}.function.arguments", function.get("arguments")),
    )

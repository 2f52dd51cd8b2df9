"""The wire's conversations → what chat templates made for `transformers` take."""

import json
from typing import Any, Final

from lengthwise_router.text.sandbox.process import Refusal
from lengthwise_wire.v1 import inference_pb2

RESERVED: Final = frozenset({"messages", "tools", "documents", "add_generation_prompt"})
"""Names that are no arguments of a template."""


def messages_of(conversation: inference_pb2.Conversation) -> list[dict[str, Any]]:
    """Errors: Refusal."""
    return [
        _message(message, f"messages[{index}]")
        for index, message in enumerate(conversation.messages)
    ]


def tools_of(conversation: inference_pb2.Conversation) -> list[dict[str, Any]]:
    """Errors: Refusal."""
    return [_object(tool, f"tools[{index}]") for index, tool in enumerate(conversation.tools)]


def arguments_of(conversation: inference_pb2.Conversation) -> dict[str, Any]:
    """Errors: Refusal."""
    if not conversation.template_arguments:
        return {}
    arguments = _object(conversation.template_arguments, "template_arguments")
    for name in sorted(RESERVED & arguments.keys()):
        raise Refusal(f"template_arguments: got {name!r}, which the conversation itself says")
    return arguments


def _message(message: inference_pb2.ChatMessage, field: str) -> dict[str, Any]:
    made: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.tool_calls:
        if not message.HasField("content"):
            made["content"] = None
        made["tool_calls"] = [
            _call(call, f"{field}.tool_calls[{index}]")
            for index, call in enumerate(message.tool_calls)
        ]
    for name in ("tool_call_id", "name", "reasoning_content"):
        if value := getattr(message, name):
            made[name] = value
    return made


def _call(call: inference_pb2.ToolCall, field: str) -> dict[str, Any]:
    arguments = _object(call.arguments or "{}", f"{field}.arguments")
    made = {"type": "function", "function": {"name": call.name, "arguments": arguments}}
    return {"id": call.id, **made} if call.id else made


def _object(text: str, field: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Refusal(f"{field}: it is no JSON: {error}") from error
    if not isinstance(value, dict):
        raise Refusal(f"{field}: got a {type(value).__name__}, expected an object")
    return value

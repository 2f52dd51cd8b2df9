"""Conversations, and the functions that may be called in them → the wire's."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from lengthwise._wire import validation as valid
from lengthwise.conversation import Message, ToolCall
from lengthwise.types import Options
from lengthwise_wire.errors import InvalidRequest
from lengthwise_wire.limits import MAX_MESSAGES, MAX_TOOLS
from lengthwise_wire.v1 import inference_pb2 as pb

_FIELDS = ("role", "content", "tool_calls", "tool_call_id", "reasoning_content")

_CHOICES = {
    "auto": pb.TOOL_CHOICE_UNSPECIFIED,
    "none": pb.TOOL_CHOICE_NONE,
    "required": pb.TOOL_CHOICE_REQUIRED,
}


def check_conversation(messages: object) -> None:
    """That it is no text, nor token ids, which no chat template would render. Errors:
    InvalidRequest."""
    if isinstance(messages, str) or (
        isinstance(messages, Sequence) and messages and isinstance(messages[0], int)
    ):
        raise InvalidRequest(
            f"messages: got {type(messages).__name__}, expected Messages, such as"
            ' [Message("user", "hi")]; generate continues a text'
        )


def wire_conversation(given: Sequence[object]) -> pb.Conversation:
    """Errors: InvalidRequest, PromptTooLong."""
    if len(given) > MAX_MESSAGES:
        raise InvalidRequest(f"prompt: got {len(given)} messages, expected at most {MAX_MESSAGES}")
    messages = [
        _wire_message(_message(message, f"prompt[{index}]"), f"prompt[{index}]")
        for index, message in enumerate(given)
    ]
    calls = sum(call.ByteSize() for message in messages for call in message.tool_calls)
    valid.check_prompt_bytes(calls + sum(len(each.content.encode()) for each in messages))
    return pb.Conversation(messages=messages)


def add_tools(request: pb.GenerateRequest, options: Options) -> None:
    """What the options say of functions. Errors: InvalidRequest."""
    tools, choice = options.get("tools"), options.get("tool_choice")
    parallel = options.get("parallel_tool_calls")
    if not tools:
        if choice not in (None, "auto", "none"):
            raise InvalidRequest(f"tool_choice: got {choice!r} without tools")
        return
    if not request.prompt.HasField("conversation"):
        raise InvalidRequest("tools: got them with a text, expected Messages as the prompt")
    if isinstance(tools, str | Mapping) or not isinstance(tools, Sequence):
        raise InvalidRequest(f"tools: got {type(tools).__name__}, expected a list of functions")
    if len(tools) > MAX_TOOLS:
        raise InvalidRequest(f"tools: got {len(tools)}, expected at most {MAX_TOOLS}")
    texts = [_tool(tool, f"tools[{index}]") for index, tool in enumerate(tools)]
    request.prompt.conversation.tools.extend(texts)
    if parallel is not None and not valid.check_flag("parallel_tool_calls", parallel):
        request.parts.single_call = True
    _choose(request.parts, "auto" if choice is None else choice, tools)


def _choose(asked: pb.AskedParts, choice: object, tools: Sequence[Mapping[str, Any]]) -> None:
    if isinstance(choice, str) and choice in _CHOICES:
        asked.tool_choice = _CHOICES[choice]
    elif isinstance(choice, str) and choice in {tool["function"]["name"] for tool in tools}:
        asked.function = choice
    else:
        raise InvalidRequest(
            f"tool_choice: got {choice!r:.80}, expected 'auto', 'none', 'required', or the name of"
            " one of the tools"
        )


def _tool(tool: object, field: str) -> str:
    function = tool.get("function") if isinstance(tool, Mapping) else None
    name = function.get("name") if isinstance(function, Mapping) else None
    if not isinstance(tool, Mapping) or tool.get("type") != "function" or not name:
        raise InvalidRequest(
            f"{field}: got {tool!r:.80}, expected {{'type': 'function', 'function': {{'name': ...,"
            " 'description': ..., 'parameters': ...}}"
        )
    valid.utf8_bytes(f"{field}.function.name", name)
    try:
        return json.dumps(tool)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidRequest(f"{field}: it cannot be JSON: {error}") from error


def _message(message: object, field: str) -> Message:
    """Errors: InvalidRequest."""
    if not isinstance(message, Message | Mapping):
        raise InvalidRequest(f"{field}: got {type(message).__name__}, expected Message as before")
    if isinstance(message, Message):
        return message
    given = {name: value for name, value in message.items() if value is not None}
    if not message.keys() <= {*_FIELDS} or not ("content" in message or "tool_calls" in given):
        others = ", ".join(map(repr, _FIELDS[2:]))
        raise InvalidRequest(
            f"{field}: got a mapping of {', '.join(map(repr, message))[:100]}, expected 'role' and"
            f" 'content', and no others but {others}"
        )
    calls = given.get("tool_calls", ())
    if isinstance(calls, str | Mapping) or not isinstance(calls, Sequence):
        raise InvalidRequest(f"{field}.tool_calls: got {type(calls).__name__}, expected a list")
    return Message(
        given.get("role", ""),
        given.get("content"),
        tuple(calls),
        given.get("tool_call_id"),
        given.get("reasoning_content"),
    )


def _call(call: object, field: str) -> pb.ToolCall:
    """Errors: InvalidRequest."""
    given: dict[str, Any]
    if isinstance(call, ToolCall):
        given = {"id": call.id, "name": call.name, "arguments": call.arguments}
    else:
        function: Any = call.get("function") if isinstance(call, Mapping) else None
        if not isinstance(call, Mapping) or not isinstance(function, Mapping):
            raise InvalidRequest(f"{field}: got {call!r:.80}, expected a ToolCall")
        given = {"id": call.get("id")}
        given |= {name: function.get(name) for name in ("name", "arguments")}
    for name, value in given.items():
        valid.utf8_bytes(f"{field}.{name}", value)
    return pb.ToolCall(**given)


def _wire_message(message: Message, field: str) -> pb.ChatMessage:
    if not valid.utf8_bytes(f"{field}.role", message.role):
        raise InvalidRequest(f"{field}.role: got '', expected \"user\" or the like")
    if message.content is not None or not message.tool_calls:
        valid.utf8_bytes(f"{field}.content", message.content)
    for name in ("tool_call_id", "reasoning_content"):
        if (text := getattr(message, name)) is not None:
            valid.utf8_bytes(f"{field}.{name}", text)
    calls = [
        _call(call, f"{field}.tool_calls[{index}]") for index, call in enumerate(message.tool_calls)
    ]
    return pb.ChatMessage(
        role=message.role,
        content=message.content,
        tool_calls=calls,
        tool_call_id=message.tool_call_id or "",
        reasoning_content=message.reasoning_content or "",
    )

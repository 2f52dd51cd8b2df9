"""`instructions` and `input` → the conversation that a chat template gets."""

from typing import Any, Final

from lengthwise_router.frontends.http.chat import PARTS, content_text, role_of
from lengthwise_router.frontends.http.errors import HttpError
from lengthwise_router.frontends.http.options import shown, text
from lengthwise_wire.errors import InvalidRequest
from lengthwise_wire.limits import MAX_MESSAGES
from lengthwise_wire.v1 import inference_pb2

MAX_CALLS: Final = 128
"""Of one message."""

_TEXTS: Final = {"input_text": "text", "output_text": "text", **PARTS}

_THOUGHTS: Final = {"reasoning_text": "text"}

_FIELDS: Final = {
    "message": ("role", "content", "phase"),
    "function_call": ("call_id", "name", "arguments", "caller", "namespace"),
    "function_call_output": ("call_id", "output", "caller"),
    "reasoning": ("summary", "content", "encrypted_content"),
}
"""Of the types of items that are served. What comes back as an API gave it may be there, and
changes nothing: ids, states, summaries, and reasoning that only its writer can read."""

_OF_ALL: Final = ("type", "id", "status", "async")


def turns(given: object, instructions: str | None) -> list[inference_pb2.ChatMessage]:
    """Errors: HttpError, InvalidRequest naming the field."""
    first = []
    if instructions:
        first = [
            inference_pb2.ChatMessage(role="system", content=text("instructions", instructions))
        ]
    if not isinstance(given, list):
        return [*first, inference_pb2.ChatMessage(role="user", content=text("input", given))]
    if not given:
        raise InvalidRequest("input: got an empty array, expected a text or items")
    if len(given) > MAX_MESSAGES:
        raise InvalidRequest(f"input: got {len(given)} items, expected at most {MAX_MESSAGES}")
    conversation = _Turns()
    for index, item in enumerate(given):
        conversation.add(item, f"input[{index}]")
    return first + conversation.messages


class _Turns:
    """Items of an assistant that follow one another become one message: what it thought, what it
    said, and what it called."""

    def __init__(self) -> None:
        self.messages: list[inference_pb2.ChatMessage] = []

    def add(self, item: object, field: str) -> None:
        if not isinstance(item, dict):
            raise InvalidRequest(f"{field}: got {shown(item)}, expected an object")
        kind = item.get("type") or "message"
        if not isinstance(kind, str) or kind not in _FIELDS:
            supported = ", ".join(f"'{each}'" for each in _FIELDS)
            raise HttpError(
                400, f"Invalid value: {shown(kind)}. Supported values are: {supported}.",
                param=f"{field}.type", code="invalid_value",
            )  # fmt: skip
        for name in item:
            if name not in _FIELDS[kind] and name not in _OF_ALL:
                expected = ", ".join(_FIELDS[kind])
                raise InvalidRequest(f"{field}: got {shown(name)}, expected {expected}")
        if kind == "message":
            self._add_message(item, field)
        elif kind == "function_call":
            self._add_call(item, field)
        elif kind == "reasoning":
            self._add_thought(item, field)
        else:
            output = content_text(item.get("output"), f"{field}.output", _TEXTS)
            call_id = _needed(item, "call_id", field)
            self.messages.append(
                inference_pb2.ChatMessage(role="tool", content=output, tool_call_id=call_id)
            )

    def _add_message(self, item: dict[str, Any], field: str) -> None:
        role = role_of(item, field)
        content = content_text(item.get("content"), f"{field}.content", _TEXTS)
        if role == "assistant":
            message = self._of_assistant
            if message.HasField("content") or message.tool_calls:
                message = self._begin()
            message.content = content
            return
        role = "system" if role == "developer" else role
        self.messages.append(inference_pb2.ChatMessage(role=role, content=content))

    def _add_call(self, item: dict[str, Any], field: str) -> None:
        message = self._of_assistant
        if len(message.tool_calls) == MAX_CALLS:
            raise InvalidRequest(
                f"{field}: got more than {MAX_CALLS} calls that follow one another"
            )
        message.tool_calls.add(
            id=_needed(item, "call_id", field),
            name=_needed(item, "name", field),
            arguments=_needed(item, "arguments", field),
        )

    def _add_thought(self, item: dict[str, Any], field: str) -> None:
        content = item.get("content")
        if content is None:
            return  # a summary is not what was thought
        thought = content_text(content, f"{field}.content", _THOUGHTS)
        message = self._of_assistant
        if message.HasField("content") or message.tool_calls:
            message = self._begin()
        message.reasoning_content += thought

    @property
    def _of_assistant(self) -> inference_pb2.ChatMessage:
        """The last message, if it is its own."""
        if self.messages and self.messages[-1].role == "assistant":
            return self.messages[-1]
        return self._begin()

    def _begin(self) -> inference_pb2.ChatMessage:
        self.messages.append(inference_pb2.ChatMessage(role="assistant"))
        return self.messages[-1]


def _needed(item: dict[str, Any], name: str, field: str) -> str:
    if item.get(name) is None:
        raise HttpError(
            400, f"Missing required parameter: '{field}.{name}'.", param=f"{field}.{name}",
            code="missing_required_parameter",
        )  # fmt: skip
    return text(f"{field}.{name}", item[name])

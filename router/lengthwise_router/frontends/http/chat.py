"""`/v1/chat/completions`: its fields, and the shape of its answers."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from lengthwise_router.frontends.http.answers import Answer, Shape
from lengthwise_router.frontends.http.logprobs import TokenTexts, chat_logprobs
from lengthwise_router.frontends.http.options import ChoiceFields, json_text, shown, text
from lengthwise_router.frontends.http.response_format import ResponseFormat
from lengthwise_router.frontends.http.tools.asked import AskedTools
from lengthwise_router.frontends.http.tools.history import tool_fields
from lengthwise_router.frontends.http.tools.telling import Telling
from lengthwise_router.text.tools.answer_format import AnswerFormat
from lengthwise_wire.errors import InvalidRequest
from lengthwise_wire.limits import MAX_MESSAGES
from lengthwise_wire.v1 import common_pb2, inference_pb2

MAX_PARTS: Final = 1024
"""Of one message."""

PARTS: Final = {"text": "text", "refusal": "refusal"}
"""Types of parts that are text, and the field that it is in."""

_UNSUPPORTED: Final = ("function_call", "audio")
"""Fields of a message that would have to change the prompt."""

_OF_TOOLS: Final = ("name", "tool_calls", "tool_call_id", "reasoning_content")

_IGNORED: Final = ("refusal", "annotations", "reasoning")
"""Fields of messages that come back as an API gave them."""


class ChatOptions(ChoiceFields):
    """The fields of a call."""

    messages: Any
    max_completion_tokens: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    response_format: ResponseFormat | None = None
    tools: Any = None
    tool_choice: Any = None
    parallel_tool_calls: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None

    @property
    def most_tokens(self) -> int | None:
        if self.max_completion_tokens is None:
            return self.max_tokens
        if self.max_tokens is not None:
            raise InvalidRequest("max_tokens: not together with max_completion_tokens")
        return self.max_completion_tokens

    def constraint(self, tools: AskedTools, form: AnswerFormat) -> common_pb2.Constraint | None:
        """Errors: InvalidRequest."""
        wanted = None if self.response_format is None else self.response_format.constraint
        if wanted is not None and tools.mode != "none":
            raise InvalidRequest(
                "response_format: not together with tools that may be called; set tool_choice to"
                " 'none'"
            )
        return wanted or tools.constraint(form)

    @property
    def alternatives(self) -> int | None:
        """Per token; None: no log probabilities."""
        if self.top_logprobs is not None and not self.logprobs:
            raise InvalidRequest("top_logprobs: only allowed when logprobs is true")
        return (self.top_logprobs or 0) if self.logprobs else None


def conversation(
    messages: object,
    field: str = "messages",
    *,
    tools: Sequence[str] = (),
    template_arguments: Mapping[str, Any] | None = None,
) -> inference_pb2.Prompt:
    """Errors: HttpError, InvalidRequest naming the field."""
    if not isinstance(messages, list) or not messages:
        got = "an empty array" if messages == [] else shown(messages)
        raise InvalidRequest(f"{field}: got {got}, expected an array of messages")
    if len(messages) > MAX_MESSAGES:
        raise InvalidRequest(
            f"{field}: got {len(messages)} messages, expected at most {MAX_MESSAGES}"
        )
    turns = [_message(message, f"{field}[{index}]") for index, message in enumerate(messages)]
    return of_turns(turns, tools=tools, template_arguments=template_arguments)


def of_turns(
    turns: Sequence[inference_pb2.ChatMessage],
    *,
    tools: Sequence[str] = (),
    template_arguments: Mapping[str, Any] | None = None,
) -> inference_pb2.Prompt:
    """Errors: InvalidRequest naming the field."""
    arguments = ""
    if template_arguments:
        arguments = json_text("chat_template_kwargs", template_arguments)
        text("chat_template_kwargs", arguments)
    for index, tool in enumerate(tools):
        text(f"tools[{index}]", tool)
    return inference_pb2.Prompt(
        conversation=inference_pb2.Conversation(
            messages=turns, tools=tools, template_arguments=arguments
        )
    )


def _message(message: object, field: str) -> inference_pb2.ChatMessage:
    if not isinstance(message, dict):
        raise InvalidRequest(f"{field}: got {shown(message)}, expected an object")
    for name, value in message.items():
        if name in _UNSUPPORTED and value not in (None, []):
            raise InvalidRequest(f"{field}.{name}: not supported: text alone is")
        if name not in ("role", "content", *_UNSUPPORTED, *_OF_TOOLS, *_IGNORED):
            raise InvalidRequest(f"{field}: got {shown(name)}, expected role and content")
    role = role_of(message, field)
    fields = tool_fields(message, role, field)
    if message.get("content") is not None or "tool_calls" not in fields:
        fields["content"] = content_text(message.get("content"), f"{field}.content", PARTS)
    return inference_pb2.ChatMessage(role="system" if role == "developer" else role, **fields)


def role_of(message: Mapping[str, Any], field: str) -> str:
    """Errors: InvalidRequest."""
    role = text(f"{field}.role", message.get("role"))
    if not 1 <= len(role) <= 64:
        raise InvalidRequest(f"{field}.role: got {shown(role)}, expected 'user' or the like")
    return role


def content_text(content: object, field: str, kinds: Mapping[str, str]) -> str:
    """A text, or parts of these kinds, joined. Errors: InvalidRequest."""
    if not isinstance(content, list):
        return text(field, content)
    if len(content) > MAX_PARTS:
        raise InvalidRequest(f"{field}: got {len(content)} parts, expected at most {MAX_PARTS}")
    return "".join(_part(part, f"{field}[{index}]", kinds) for index, part in enumerate(content))


def _part(part: object, field: str, kinds: Mapping[str, str]) -> str:
    kind = part.get("type") if isinstance(part, dict) else None
    if not isinstance(part, dict) or not isinstance(kind, str) or kind not in kinds:
        got = shown(kind) if isinstance(part, dict) else shown(part)
        expected = repr(next(iter(kinds)))
        raise InvalidRequest(
            f"{field}.type: got {got}, expected {expected}; nothing else is served"
        )
    return text(f"{field}.{kinds[kind]}", part.get(kinds[kind]))


class ChatShape(Shape):
    """OpenAI's `chat.completion` and `chat.completion.chunk`."""

    prefix = "chatcmpl"
    whole = "chat.completion"
    piece = "chat.completion.chunk"

    def __init__(self, texts: TokenTexts, tools: AskedTools, form: AnswerFormat) -> None:
        self._texts = texts
        self._tools = tools
        self._form = form
        self._tellings: dict[int, Telling] = {}

    def choice(self, answer: Answer) -> Mapping[str, Any]:
        message = self._telling(answer).message(answer.text)
        logprobs = chat_logprobs(answer, self._texts) if answer.logprobs is not None else None
        return {"message": message, "logprobs": logprobs}

    def first(self) -> Mapping[str, Any] | None:
        return {"delta": {"role": "assistant", "content": "", "refusal": None}}

    def deltas(self, piece: Answer) -> Sequence[Mapping[str, Any]]:
        is_last = piece.finish_reason is not None
        deltas = self._telling(piece).deltas(piece.text, is_last=is_last)
        if not piece.logprobs:
            return [{"delta": delta} for delta in deltas]
        first, *others = deltas or [{}]
        logprobs = chat_logprobs(piece, self._texts)
        return [{"delta": first, "logprobs": logprobs}, *({"delta": delta} for delta in others)]

    def finish_reason(self, piece: Answer) -> str | None:
        has_called = self._telling(piece).has_called
        return "tool_calls" if has_called and piece.finish_reason == "stop" else piece.finish_reason

    def last(self) -> Mapping[str, Any]:
        return {"delta": {}}

    def _telling(self, piece: Answer) -> Telling:
        """Made with the first piece."""
        telling = self._tellings.get(piece.index)
        if telling is None:
            begins = piece.begins_in_reasoning
            parser = self._tools.parser(self._form, begins_in_reasoning=begins)
            telling = self._tellings[piece.index] = Telling(parser, self._form.new_call_id)
        return telling

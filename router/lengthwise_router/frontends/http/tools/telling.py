"""What answers are made of → OpenAI's messages and deltas."""

from collections.abc import Callable, Sequence
from typing import Any

from lengthwise_router.text.tools.answer_format import AnswerParser
from lengthwise_router.text.tools.parts import (
    CallArguments,
    CallsEnd,
    CallStart,
    Content,
    Part,
    Reasoning,
    WholeAnswer,
)


class Telling:
    """One answer, whole or in pieces."""

    def __init__(self, parser: AnswerParser, new_call_id: Callable[[], str]) -> None:
        self._parser = parser
        self._new_call_id = new_call_id
        self._num_begun = 0
        self._num_called = 0
        self._has_taken_back = False

    @property
    def has_called(self) -> bool:
        """Whether all that was told of calls, if anything was, is calls."""
        return self._num_called > 0 and not self._has_taken_back

    def message(self, text: str) -> dict[str, Any]:
        """Of the whole text."""
        whole = WholeAnswer()
        for part in self._parser.append(text) + self._parser.finish():
            whole.take(part)
        self._num_called = len(whole.calls)
        said = whole.content
        message: dict[str, Any] = {"role": "assistant", "content": said, "refusal": None}
        if whole.reasoning:
            message["reasoning_content"] = whole.reasoning
        if whole.calls:
            calls = [self._call(call.name, call.arguments) for call in whole.calls]
            message.update(content=said or None, tool_calls=calls)
        return message

    def deltas(self, text: str, *, is_last: bool) -> list[dict[str, Any]]:
        """After a further piece of the text."""
        parts = self._parser.append(text)
        if is_last:
            parts += self._parser.finish()
        return [delta for part in _joined(parts) for delta in self._deltas(part)]

    def _deltas(self, part: Part) -> list[dict[str, Any]]:
        if isinstance(part, Content):
            return [{"content": part.text}]
        if isinstance(part, Reasoning):
            return [{"reasoning_content": part.text}]
        if isinstance(part, CallsEnd):
            self._num_called = self._num_begun
            self._has_taken_back |= part.is_void
            return []
        if isinstance(part, CallStart):
            self._num_begun += 1
            begun = self._call(part.name, "")
        else:
            begun = {"function": {"arguments": part.text}}
        return [{"tool_calls": [{"index": self._num_begun - 1, **begun}]}]

    def _call(self, name: str, arguments: str) -> dict[str, Any]:
        function = {"name": name, "arguments": arguments}
        return {"id": self._new_call_id(), "type": "function", "function": function}


def _joined(parts: Sequence[Part]) -> list[Part]:
    """Pieces of the same that follow one another as one."""
    joined: list[Part] = []
    for part in parts:
        last = joined[-1] if joined else None
        if isinstance(part, Content) and isinstance(last, Content):
            joined[-1] = Content(last.text + part.text)
        elif isinstance(part, CallArguments) and isinstance(last, CallArguments):
            joined[-1] = CallArguments(last.text + part.text)
        else:
            joined.append(part)
    return joined

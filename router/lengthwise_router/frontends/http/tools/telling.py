"""What answers are made of → OpenAI's messages and deltas."""

from collections.abc import Callable, Sequence
from typing import Any

from lengthwise_router.text.tools.answer_format import AnswerParser
from lengthwise_router.text.tools.parts import Content, FunctionCall, Part, Reasoning


class Telling:
    """One answer, whole or in pieces."""

    def __init__(self, parser: AnswerParser, new_call_id: Callable[[], str]) -> None:
        self._parser = parser
        self._new_call_id = new_call_id
        self.num_calls = 0

    def message(self, text: str) -> dict[str, Any]:
        """Of the whole text."""
        parts = self._parser.append(text) + self._parser.finish()
        said = "".join(part.text for part in parts if isinstance(part, Content))
        thought = "".join(part.text for part in parts if isinstance(part, Reasoning))
        calls = [self._call(part) for part in parts if isinstance(part, FunctionCall)]
        message: dict[str, Any] = {"role": "assistant", "content": said, "refusal": None}
        if thought:
            message["reasoning_content"] = thought
        if calls:
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
        index = self.num_calls
        whole = self._call(part)
        named = {**whole, "function": {"name": part.name, "arguments": ""}}
        arguments = {"arguments": part.arguments}
        return [
            {"tool_calls": [{"index": index, **named}]},
            {"tool_calls": [{"index": index, "function": arguments}]},
        ]

    def _call(self, call: FunctionCall) -> dict[str, Any]:
        self.num_calls += 1
        function = {"name": call.name, "arguments": call.arguments}
        return {"id": self._new_call_id(), "type": "function", "function": function}


def _joined(parts: Sequence[Part]) -> list[Part]:
    """Pieces of content that follow one another as one."""
    joined: list[Part] = []
    for part in parts:
        if isinstance(part, Content) and joined and isinstance(joined[-1], Content):
            joined[-1] = Content(joined[-1].text + part.text)
        else:
            joined.append(part)
    return joined

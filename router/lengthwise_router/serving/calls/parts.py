"""The parts of an answer, as gRPC tells them."""

from collections.abc import Callable

from lengthwise_router.text.tools.answer_format import AnswerParser
from lengthwise_router.text.tools.parts import (
    CallArguments,
    CallsEnd,
    CallStart,
    Content,
    Part,
)
from lengthwise_wire.v1 import inference_pb2


class ToldParts:
    """Of one answer, as its text comes."""

    def __init__(self, parser: AnswerParser, new_call_id: Callable[[], str]) -> None:
        self._parser = parser
        self._new_call_id = new_call_id

    def append(self, text: str) -> list[inference_pb2.AnswerPart]:
        return [self._told(part) for part in self._parser.append(text)]

    def finish(self) -> list[inference_pb2.AnswerPart]:
        return [self._told(part) for part in self._parser.finish()]

    def _told(self, part: Part) -> inference_pb2.AnswerPart:
        if isinstance(part, Content):
            return inference_pb2.AnswerPart(content=part.text)
        if isinstance(part, CallStart):
            call = inference_pb2.ToolCall(id=self._new_call_id(), name=part.name)
            return inference_pb2.AnswerPart(call=call)
        if isinstance(part, CallArguments):
            return inference_pb2.AnswerPart(arguments=part.text)
        if isinstance(part, CallsEnd):
            end = inference_pb2.CallsEnd(is_void=part.is_void)
            return inference_pb2.AnswerPart(calls_end=end)
        return inference_pb2.AnswerPart(reasoning=part.text)

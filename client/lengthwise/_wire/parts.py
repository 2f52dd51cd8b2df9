"""The parts of an answer as they come → what was said, thought and called."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from lengthwise.conversation import ToolCall, ToolCallDelta
from lengthwise_wire.errors import InternalError
from lengthwise_wire.v1 import inference_pb2 as pb


@dataclass(frozen=True, slots=True, kw_only=True)
class Pieces:
    """Of one response."""

    content: str
    reasoning: str
    tool_call_deltas: tuple[ToolCallDelta, ...]
    tool_calls: tuple[ToolCall, ...]


@dataclass(frozen=True, slots=True)
class _Begun:
    """A call that is being written."""

    index: int
    id: str
    name: str
    arguments: list[str] = field(default_factory=list)

    @property
    def whole(self) -> ToolCall:
        return ToolCall(id=self.id, name=self.name, arguments="".join(self.arguments))


class ReceivedParts:
    """Of one answer: calls that have begun are kept until they are whole."""

    def __init__(self) -> None:
        self._begun: list[_Begun] = []
        self._num_calls = 0

    def take(self, parts: Iterable[pb.AnswerPart]) -> Pieces:
        """Errors: InternalError."""
        contents, thoughts = [], []
        deltas: list[ToolCallDelta] = []
        whole: list[ToolCall] = []
        for part in parts:
            kind = part.WhichOneof("kind")
            if kind == "content":
                contents.append(part.content)
            elif kind == "reasoning":
                thoughts.append(part.reasoning)
            elif kind == "call":
                deltas.append(self._begin(part.call))
            elif kind == "arguments":
                deltas.append(self._more(part.arguments))
            elif kind == "calls_end":
                begun, self._begun = self._begun, []
                whole += [] if part.calls_end.is_void else [call.whole for call in begun]
        return Pieces(
            content="".join(contents),
            reasoning="".join(thoughts),
            tool_call_deltas=tuple(deltas),
            tool_calls=tuple(whole),
        )

    def _begin(self, call: pb.ToolCall) -> ToolCallDelta:
        begun = _Begun(self._num_calls, call.id, call.name)
        self._begun.append(begun)
        self._num_calls += 1
        return ToolCallDelta(index=begun.index, id=begun.id, name=begun.name)

    def _more(self, arguments: str) -> ToolCallDelta:
        if not self._begun:
            raise InternalError("the server sent arguments of a call that has not begun")
        last = self._begun[-1]
        last.arguments.append(arguments)
        return ToolCallDelta(index=last.index, arguments=arguments)

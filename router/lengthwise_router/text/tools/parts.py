"""What an answer is made of."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol


@dataclass(frozen=True, slots=True)
class Content:
    """A piece of what is said to the user."""

    text: str


@dataclass(frozen=True, slots=True)
class Reasoning:
    """A piece of what was thought before."""

    text: str


@dataclass(frozen=True, slots=True)
class CallStart:
    """A call begins."""

    name: str


@dataclass(frozen=True, slots=True)
class CallArguments:
    """A further piece of the arguments of the call that began last: in all a JSON object."""

    text: str


@dataclass(frozen=True, slots=True)
class CallsEnd:
    """The calls that began since the last end are whole; or they are none, if `is_void`: what was
    taken for them follows as content."""

    is_void: bool = False


MAX_SPACE: Final = 256
"""Characters of white space that are waited through: what follows more is no marker of anything."""

Part = Content | Reasoning | CallStart | CallArguments | CallsEnd


@dataclass(frozen=True, slots=True)
class FunctionCall:
    """A whole call."""

    name: str
    arguments: str  # a JSON object


@dataclass(frozen=True, slots=True, kw_only=True)
class Function:
    """What a model may call."""

    name: str
    parameters: Mapping[str, Any]  # a JSON Schema of objects
    strict: bool = False  # keywords that no grammar can keep to are refused, not passed over
    size: int = 0  # characters of the parameters as they were sent


class PartsParser(Protocol):
    """Makes parts of a text that comes in pieces, the same however it is cut."""

    def append(self, text: str) -> list[Part]:
        """Those that are certain, and calls that have begun: they may still turn out to be none."""

    def finish(self) -> list[Part]:
        """Those that were held back: no text follows."""


class WholeAnswer:
    """The parts of an answer, put together."""

    def __init__(self) -> None:
        self.calls: list[FunctionCall] = []
        self._contents: list[str] = []
        self._thoughts: list[str] = []
        self._begun: list[tuple[str, list[str]]] = []

    def take(self, part: Part) -> None:
        if isinstance(part, Content):
            self._contents.append(part.text)
        elif isinstance(part, Reasoning):
            self._thoughts.append(part.text)
        elif isinstance(part, CallStart):
            self._begun.append((part.name, []))
        elif isinstance(part, CallArguments):
            self._begun[-1][1].append(part.text)
        else:
            begun, self._begun = self._begun, []
            if not part.is_void:
                self.calls += [FunctionCall(name, "".join(texts)) for name, texts in begun]

    @property
    def content(self) -> str:
        return "".join(self._contents)

    @property
    def reasoning(self) -> str:
        return "".join(self._thoughts)

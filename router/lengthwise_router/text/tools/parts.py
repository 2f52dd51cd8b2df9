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
class FunctionCall:
    """A whole call."""

    name: str
    arguments: str  # a JSON object


MAX_SPACE: Final = 256
"""Characters of white space that are waited through: what follows more is no marker of anything."""

Part = Content | Reasoning | FunctionCall


@dataclass(frozen=True, slots=True, kw_only=True)
class Function:
    """What a model may call."""

    name: str
    parameters: Mapping[str, Any]  # a JSON Schema of objects
    strict: bool = False  # keywords that no grammar can keep to are refused, not passed over


class PartsParser(Protocol):
    """Makes parts of a text that comes in pieces, the same however it is cut."""

    def append(self, text: str) -> list[Part]:
        """Those that are certain."""

    def finish(self) -> list[Part]:
        """Those that were held back: no text follows."""

"""How a model writes calls and reasoning, told from its chat template."""

import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from lengthwise_router.config import ReasoningParserName, ToolParserName
from lengthwise_router.text.tools import reasoning
from lengthwise_router.text.tools.hermes import HermesFormat
from lengthwise_router.text.tools.llama import LlamaFormat
from lengthwise_router.text.tools.mistral import MistralFormat
from lengthwise_router.text.tools.parts import (
    CallArguments,
    CallsEnd,
    CallStart,
    Content,
    Function,
    Part,
    PartsParser,
)
from lengthwise_router.text.tools.qwen_coder import QwenCoderFormat
from lengthwise_router.text.tools.reasoning import ThinkParser


class CallFormat(Protocol):
    """How calls are written."""

    @property
    def markers(self) -> tuple[str, ...]:
        """What may be a special token."""

    def parser(self, functions: Sequence[Function], *, is_forced: bool) -> PartsParser:
        """Of an answer's text, which the grammar allows alone where it `is_forced`."""

    def grammar(self, functions: Sequence[Function], *, parallel: bool) -> str:
        """Of one call, or with `parallel` of one or several: Lark of llguidance."""


_FORMATS: Final[Mapping[str, tuple[str, CallFormat]]] = {
    "mistral": (r"\[TOOL_CALLS\]", MistralFormat()),
    "qwen3_coder": (r"<function=", QwenCoderFormat()),
    "hermes": (r"<tool_call>", HermesFormat()),
    "llama3_json": (r"<\|python_tag\|>|[\"']parameters\\?[\"']", LlamaFormat()),
}
"""What a template of each kind has; the first counts."""

_TOOLS: Final = re.compile(r"\btools\b")


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerFormat:
    """Of one model."""

    takes_tools: bool = False  # its template writes them into the prompt
    calls: CallFormat | None = None
    has_reasoning: bool = False

    def markers(self, *, with_tools: bool) -> tuple[str, ...]:
        """What the text of an answer has to show, be it special tokens."""
        of_calls = self.calls.markers if with_tools and self.calls is not None else ()
        return (*of_calls, *((reasoning.BEGIN, reasoning.END) if self.has_reasoning else ()))

    def new_call_id(self) -> str:
        """Mistral's templates take nine letters and digits, and nothing else."""
        if isinstance(self.calls, MistralFormat):
            return secrets.token_hex(5)[:9]
        return f"call_{secrets.token_hex(12)}"

    def parser(
        self,
        functions: Sequence[Function],
        *,
        is_forced: bool = False,
        max_calls: int | None = None,
        begins_in_reasoning: bool = False,
    ) -> "AnswerParser":
        """`functions`: none if there is to be no call. Calls beyond `max_calls` are left out."""
        thoughts = calls = None
        if self.has_reasoning:
            thoughts = ThinkParser(begins_within=begins_in_reasoning)
        if self.calls is not None and functions:
            calls = self.calls.parser(functions, is_forced=is_forced)
        return AnswerParser(thoughts, calls, max_calls)


class AnswerParser:
    """Parts one answer: reasoning first, then words and calls."""

    def __init__(
        self, thoughts: PartsParser | None, calls: PartsParser | None, max_calls: int | None
    ) -> None:
        self._thoughts = thoughts
        self._calls = calls
        self._max_calls = max_calls
        self._num_calls = 0  # whole ones, and all that have begun since
        self._num_begun = 0  # since the last end

    def append(self, text: str) -> list[Part]:
        """Those that are certain after this piece of the text."""
        if self._thoughts is None:
            return self._said(text)
        return self._parted(self._thoughts.append(text))

    def finish(self) -> list[Part]:
        """Those that were held back."""
        parts = [] if self._thoughts is None else self._parted(self._thoughts.finish())
        return parts if self._calls is None else parts + self._counted(self._calls.finish())

    def _parted(self, parts: list[Part]) -> list[Part]:
        made: list[Part] = []
        for part in parts:
            made += self._said(part.text) if isinstance(part, Content) else [part]
        return made

    def _said(self, text: str) -> list[Part]:
        if self._calls is None:
            return [Content(text)] if text else []
        return self._counted(self._calls.append(text))

    def _counted(self, parts: list[Part]) -> list[Part]:
        return [part for part in parts if self._is_kept(part)]

    def _is_kept(self, part: Part) -> bool:
        """Calls beyond the most are left out."""
        most = self._max_calls
        if isinstance(part, CallStart):
            self._num_calls += 1
            self._num_begun += 1
        if isinstance(part, CallsEnd):
            has_told = most is None or self._num_calls - self._num_begun < most
            self._num_calls -= self._num_begun if part.is_void else 0
            self._num_begun = 0
            return has_told
        is_of_call = isinstance(part, (CallStart, CallArguments))
        return not is_of_call or most is None or self._num_calls <= most


def answer_format(
    template: str | None,
    tool_parser: ToolParserName = "auto",
    reasoning_parser: ReasoningParserName = "auto",
) -> AnswerFormat:
    """By the template, as far as the names leave it open."""
    text = template or ""
    takes_tools = _TOOLS.search(text) is not None
    calls = None
    if tool_parser != "auto":
        calls = _FORMATS[tool_parser][1] if tool_parser != "none" else None
    elif takes_tools:
        kinds = (kind for sign, kind in _FORMATS.values() if re.search(sign, text))
        calls = next(kinds, None)
    thinks = reasoning.END in text if reasoning_parser == "auto" else reasoning_parser == "think"
    return AnswerFormat(takes_tools=takes_tools, calls=calls, has_reasoning=thinks)

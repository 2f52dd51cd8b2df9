"""Answers as models of each family write them."""

import json
from collections.abc import Iterable

from lengthwise_router.text.tools.answer_format import AnswerFormat, AnswerParser, answer_format
from lengthwise_router.text.tools.parts import (
    CallArguments,
    CallsEnd,
    CallStart,
    Content,
    Function,
    FunctionCall,
    Part,
    Reasoning,
)

Whole = Content | Reasoning | FunctionCall

TEMPLATES = {
    "hermes": "{% for tool in tools %}{{ tool }}{% endfor %}<tool_call>",
    "qwen3_coder": "{{ tools }}<tool_call><function=example>",
    "mistral": "[AVAILABLE_TOOLS]{{ tools }}[TOOL_CALLS]",
    "llama3_json": "{{ tools }}{'name': ..., 'parameters': ...}<|python_tag|>",
}
THINKING = "{{ message.content.split('</think>') }}"

WEATHER = Function(
    name="get_weather",
    parameters={
        "type": "object",
        "properties": {
            "city": {"type": "string", "maxLength": 6},
            "days": {"type": "integer", "minimum": 0, "maximum": 99},
            "unit": {"type": "string", "enum": ["C", "F"]},
        },
        "required": ["city", "days"],
        "additionalProperties": False,
    },
)
STOP = Function(
    name="stop",
    parameters={"type": "object", "properties": {}, "additionalProperties": False},
)
FUNCTIONS = (WEATHER, STOP)


def format_of(name: str, *, thinks: bool = False) -> AnswerFormat:
    return answer_format(TEMPLATES[name] + (THINKING if thinks else ""))


def parsed(parser: AnswerParser, pieces: Iterable[str]) -> list[Whole]:
    return merged(parts_of(parser, pieces))


def parts_of(parser: AnswerParser, pieces: Iterable[str]) -> list[Part]:
    parts: list[Part] = []
    for piece in pieces:
        parts += parser.append(piece)
    return parts + parser.finish()


def merged(parts: Iterable[Part]) -> list[Whole]:
    """Pieces that follow one another as one, without calls that turned out to be none."""
    whole: list[Whole] = []
    begun: list[FunctionCall] = []
    for part in parts:
        last = whole[-1] if whole else None
        if isinstance(part, CallStart):
            begun.append(FunctionCall(part.name, ""))
        elif isinstance(part, CallArguments):
            begun[-1] = FunctionCall(begun[-1].name, begun[-1].arguments + part.text)
        elif isinstance(part, CallsEnd):
            assert begun, "an end without a beginning"
            whole += [] if part.is_void else begun
            begun = []
        elif begun:
            raise AssertionError("calls that began have no end")
        elif isinstance(part, Content) and isinstance(last, Content):
            whole[-1] = Content(last.text + part.text)
        elif isinstance(part, Reasoning) and isinstance(last, Reasoning):
            whole[-1] = Reasoning(last.text + part.text)
        else:
            whole.append(part)
    assert not begun
    return whole


def joined(parts: list[Part]) -> list[Part]:
    """Pieces of the same that follow one another as one, void calls included."""
    made: list[Part] = []
    for part in parts:
        last = made[-1] if made else None
        if isinstance(part, (Content, Reasoning, CallArguments)) and type(last) is type(part):
            made[-1] = type(part)(last.text + part.text)
        else:
            made.append(part)
    return made


def read(name: str, text: str, *, thinks: bool = False) -> list[Whole]:
    return parsed(format_of(name, thinks=thinks).parser(FUNCTIONS), [text])


def call(name: str, **arguments: object) -> FunctionCall:
    return FunctionCall(name, json.dumps(arguments, ensure_ascii=False))

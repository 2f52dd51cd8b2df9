"""Arguments are told while they are written, and are in the end what was written."""

import json
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from router.text.tools.formats import FUNCTIONS, format_of, merged, parsed, parts_of, read
from router.text.tools.test_parsers import CODER

from lengthwise_router.text.tools.drafts import JsonDraft
from lengthwise_router.text.tools.parts import CallArguments, CallStart, FunctionCall

STREAMED = {
    "hermes": '<tool_call>\n{"name": "get_weather", "arguments": ',
    "qwen3_coder": "<tool_call>\n<function=get_weather>\n<parameter=city>\n",
    "mistral": '[TOOL_CALLS][{"name": "get_weather", "arguments": ',
    "mistral named": "[TOOL_CALLS]get_weather[ARGS]",
    "llama3_json": '{"name": "get_weather", "parameters": ',
    "llama3_json tagged": '<|python_tag|>{"type": "function", "name": "stop", "parameters": ',
}


@pytest.mark.parametrize("name", STREAMED)
def test_arguments_are_told_while_they_are_written(name: str) -> None:
    parser = format_of(name.partition(" ")[0]).parser(FUNCTIONS)
    is_coder = name == "qwen3_coder"
    told = [part for letter in STREAMED[name] for part in parser.append(letter)]
    for piece in ["Par", "is, ", "Texas"] if is_coder else ['{"city": ', '"Par', 'is"']:
        told += parser.append(piece)
        assert isinstance(told[-1], CallArguments)
        assert told[-1].text.endswith(piece)
    assert isinstance(told[0], CallStart)
    assert all(isinstance(part, CallArguments) for part in told[1:])


def test_the_arguments_of_every_call_of_a_list_are_told_while_they_are_written() -> None:
    text = '[TOOL_CALLS][{"name": "stop", "arguments": {}, "id": "abcdefghi"}, {"name": "stop", '
    parser = format_of("mistral").parser(FUNCTIONS)
    told = [part for letter in text + '"arguments": {"a": [1' for part in parser.append(letter)]
    assert sum(isinstance(part, CallStart) for part in told) == 2
    assert isinstance(told[-1], CallArguments)
    assert told[-1].text.endswith("1")


def test_line_breaks_in_strings_of_arguments_are_escaped() -> None:
    text = '<tool_call>{"name": "stop", "arguments": {"a": "x\n\ty", \n"b": 1.50}}</tool_call>'
    (call,) = read("hermes", text)
    assert isinstance(call, FunctionCall)
    assert call.arguments == '{"a": "x\\u000a\\u0009y", \n"b": 1.50}'
    assert json.loads(call.arguments) == {"a": "x\n\ty", "b": 1.5}


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=6,
)


@st.composite
def calls_as_written(draw: st.DrawFn, name: str) -> tuple[str, list[dict[str, Any]]]:
    """Calls as a model may write them, and their arguments."""
    written, given = [], []
    for _ in range(draw(st.integers(1, 3))):
        arguments = draw(st.dictionaries(st.text(max_size=6), VALUES, max_size=3))
        indent = draw(st.sampled_from([None, 1]))
        space = draw(st.sampled_from(["", " ", "\n"]))
        text = json.dumps(arguments, ensure_ascii=draw(st.booleans()), indent=indent)
        members = ['"name": "stop"', f'"arguments":{space}{text}']
        members += draw(st.sampled_from([[], ['"id": "abcdefghi"'], ['"type": "function"']]))
        if draw(st.booleans()):
            members = draw(st.permutations(members))
        written.append("{" + space + f"{space},{space}".join(members) + space + "}")
        given.append(arguments)
    if name == "mistral":
        return f"[TOOL_CALLS][{', '.join(written)}]", given
    if name == "llama3_json":
        return "; ".join(written), given
    return "\n".join(f"<tool_call>{one}</tool_call>" for one in written), given


@settings(max_examples=min(30, settings().max_examples))
@given(data=st.data(), name=st.sampled_from(["hermes", "mistral", "llama3_json"]))
def test_whatever_arguments_are_written_are_told_whole(data: st.DataObject, name: str) -> None:
    text, given = data.draw(calls_as_written(name))
    if name == "llama3_json":
        assume(text.lstrip("{ \n").startswith(('"name', '"type', '"id', '"arguments')))
    size = data.draw(st.sampled_from([1, 3, 10, 10_000]))
    parts = parts_of(format_of(name).parser(FUNCTIONS), cut(text, size))
    calls = [part for part in merged(parts) if isinstance(part, FunctionCall)]
    assert [json.loads(call.arguments) for call in calls] == given
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(JsonDraft, "append", lambda self, text: [])
        assert parsed(format_of(name).parser(FUNCTIONS), [text]) == merged(parts)


@settings(max_examples=min(30, settings().max_examples))
@given(
    city=st.text(max_size=20)
    | st.sampled_from(["\n", "a\n\n", "</para", "<parameter=x>", '"', "\\"]),
    days=VALUES,
    size=st.sampled_from([1, 3, 10_000]),
)
def test_whatever_parameters_are_written_are_told_whole(city: str, days: Any, size: int) -> None:
    assume("</parameter>" not in city)
    text = CODER.replace("\n2\n", f"\n{json.dumps(days)}\n").replace("Paris", city, 1)
    parts = parts_of(format_of("qwen3_coder").parser(FUNCTIONS), cut(text, size))
    (call,) = merged(parts)
    assert isinstance(call, FunctionCall)
    assert json.loads(call.arguments) == {"city": city, "days": days}
    assert sum(isinstance(part, CallArguments) for part in parts) >= min(2, len(text) // size)


def cut(text: str, size: int) -> list[str]:
    return [text[place : place + size] for place in range(0, len(text), size)]


LONG = {
    "hermes": '<tool_call>{"name": "stop", "arguments": {"a": "MANY"}}</tool_call>',
    "hermes broken": '<tool_call>{"name": "stop", MANY}</tool_call>',
    "mistral": "[TOOL_CALLS][MANY]",
    "mistral named": "[TOOL_CALLS]stop[ARGS]MANY",
    "mistral name": "[TOOL_CALLS]MANY[ARGS]{}",
    "llama3_json": '{"name": "stop", "parameters": {"a": MANY}}',
    "qwen3_coder": CODER.replace("Paris", "MANY"),
    "qwen3_coder number": CODER.replace("2", "MANY"),
    "qwen3_coder end": CODER.replace("</function>", "MANY</function>"),
}


@pytest.mark.parametrize("name", LONG)
def test_a_long_text_is_read_in_time_of_its_length(name: str) -> None:
    """Whatever is read again and again would take minutes."""
    for many in (" ", "\n", "a", "[", "\\", '"', "<parameter=", "</param", "a.", ", ", "{"):
        text = LONG[name].replace("MANY", many * (30_000 // len(many)))
        merged(parts_of(format_of(name.partition(" ")[0]).parser(FUNCTIONS), cut(text, 2000)))

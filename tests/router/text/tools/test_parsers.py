"""Calls and reasoning are found in answers as models of each family write them; what is no call is
text, whole."""

import json
import random
import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from router.text.tools.formats import (
    FUNCTIONS,
    TEMPLATES,
    THINKING,
    Whole,
    call,
    format_of,
    joined,
    parsed,
    parts_of,
    read,
)

from lengthwise_router.text.tools.answer_format import AnswerParser, answer_format
from lengthwise_router.text.tools.json_calls import read_calls
from lengthwise_router.text.tools.parts import (
    MAX_SPACE,
    Content,
    FunctionCall,
    Reasoning,
)

PARIS = call("get_weather", city="Paris", days=2)
ROME = call("get_weather", city="Rome", days=1)
END = call("stop")

CODER = (
    "<tool_call>\n<function=get_weather>\n<parameter=city>\nParis\n</parameter>\n"
    "<parameter=days>\n2\n</parameter>\n</function>\n</tool_call>"
)
CALLS: list[tuple[str, str, list[Whole]]] = [
    (
        "hermes",
        '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris", "days": 2}}\n'
        "</tool_call>",
        [PARIS],
    ),
    (
        "hermes",
        'Let me see. <tool_call>{"name": "get_weather", "arguments": {"city": "Paris", "days": 2}}'
        '</tool_call>\n<tool_call>{"name": "stop"}</tool_call>\n',
        [Content("Let me see. "), PARIS, END],
    ),
    (
        "hermes",
        '<tool_call>{"arguments": "{\\"city\\": \\"Paris\\", \\"days\\": 2}",'
        ' "name": "get_weather"}',
        [PARIS],
    ),
    (
        "hermes",
        '<tool_call>{"name": "get_weather", "arguments": {"city": "</tool_call>\\"", "days": 2}}'
        "</tool_call> Done.",
        [call("get_weather", city='</tool_call>"', days=2), Content(" Done.")],
    ),
    ("qwen3_coder", CODER, [PARIS]),
    (
        "qwen3_coder",
        f"First.\n{CODER}\n<tool_call>\n<function=stop>\n</function>\n</tool_call>",
        [Content("First.\n"), PARIS, END],
    ),
    (
        "qwen3_coder",
        CODER.replace("Paris", '12\n{"a": <b>}\n'),
        [call("get_weather", city='12\n{"a": <b>}\n', days=2)],
    ),
    (
        "mistral",
        '[TOOL_CALLS][{"name": "get_weather", "arguments": {"city": "Paris", "days": 2}},'
        ' {"name": "stop", "arguments": {}, "id": "abcdefghi"}]',
        [PARIS, END],
    ),
    (
        "mistral",
        'Well.[TOOL_CALLS]get_weather[ARGS]{"city": "Paris", "days": 2}'
        "[TOOL_CALLS]stop[CALL_ID]x1[ARGS]{}",
        [Content("Well."), PARIS, END],
    ),
    (
        "mistral",
        '[TOOL_CALLS]get_weather{"city": "[TOOL_CALLS]", "days": 2}',
        [call("get_weather", city="[TOOL_CALLS]", days=2)],
    ),
    (
        "llama3_json",
        '{"name": "get_weather", "parameters": {"city": "Paris", "days": 2}}',
        [PARIS],
    ),
    (
        "llama3_json",
        '<|python_tag|>{"type": "function", "name": "get_weather",'
        ' "parameters": {"city": "Paris", "days": 2}}; {"name": "stop", "parameters": {}}',
        [PARIS, END],
    ),
    (
        "llama3_json",
        'Sure.<|python_tag|>{"name": "stop", "parameters": {}}',
        [Content("Sure."), END],
    ),
]


@pytest.mark.parametrize(("name", "text", "expected"), CALLS)
def test_calls_are_read_as_the_family_writes_them(
    name: str, text: str, expected: list[Whole]
) -> None:
    assert read(name, text) == expected


BROKEN = {
    "hermes": [
        '<tool_call>{"name": "unknown", "arguments": {}}</tool_call>',
        '<tool_call>{"name": "stop", "arguments": [1]}</tool_call>',
        '<tool_call>{"name": "stop", "arguments": {"a": }}</tool_call> and more',
        '<tool_call>{"name": "stop", "arguments": {}, "comment": "x"}</tool_call>',
        '<tool_call>{"name": "stop", "arguments": {"a": 1, "a": 2}}</tool_call>',
        '<tool_call>{"name": "stop", "arguments": {"a": NaN}}</tool_call>',
        '<tool_call>{"name": "stop", "arguments": {"a": 1e999}}</tool_call>',
        '<tool_call>{"name": "stop", "arguments": {"a": ' + "9" * 5000 + "}}</tool_call>",
        "<tool_call>" + '{"a":' * 100_000 + "</tool_call>",
        '<tool_call>{"name": "stop", "arguments": {"city": "Par',
        '<tool_call>{"name: "stop"}</tool_call> and more',
        "<tool_call></tool_call>",
        "<tool_call> \n",
        "<tool_ca",
        "</tool_call>",
        "a < b and <tool>",
    ],
    "qwen3_coder": [
        CODER.replace("get_weather", "unknown"),
        CODER.replace("</function>", ""),
        CODER.replace("</parameter>", "", 1),
        CODER.replace("=days", "=city"),
        CODER.replace("<function=", "<function "),
        CODER[:-40],
        "<tool_call>\nhello</tool_call>",
    ],
    "mistral": [
        "[TOOL_CALLS]",
        "[TOOL_CALLS]hello",
        '[TOOL_CALLS]stop[ARGS]{"a": [}',
        "[TOOL_CALLS][]",
        '[TOOL_CALLS][{"name": "stop"}] hello',
        "[TOOL_CALLS][TOOL_CALLS]",
        "[TOOL_CA",
    ],
    "llama3_json": [
        '{"name": "unknown", "parameters": {}}',
        '{"name": "stop", "parameters": {}} hello',
        '{"name": "stop", "parameters": {',
        '{"answer": 1}',
        '{"name"',
        "{",
        " \n",
        "[1, 2]",
        '<|python_tag|>stop.call(a="b")',
        "<|python_t",
    ],
}


@pytest.mark.parametrize(("name", "text"), [(n, text) for n in BROKEN for text in BROKEN[n]])
def test_what_is_no_call_is_text_as_it_stands(name: str, text: str) -> None:
    assert read(name, text) == [Content(text)]


@pytest.mark.parametrize("name", TEMPLATES)
def test_words_are_told_at_once(name: str) -> None:
    parser = format_of(name).parser(FUNCTIONS)
    assert parser.append("Hello, ") == [Content("Hello, ")]
    assert parser.append("a < b [1]") == [Content("a < b [1]")]


def test_json_that_begins_as_no_call_of_llama_does_is_told_at_once() -> None:
    parser = format_of("llama3_json").parser(FUNCTIONS)
    assert parser.append('{"') == []
    assert parser.append("an") == [Content('{"an')]
    assert parser.append('swer": 1}') == [Content('swer": 1}')]


@pytest.mark.parametrize("name", TEMPLATES)
def test_no_more_white_space_is_held_back_than_stands_before_markers(name: str) -> None:
    for before in ("", "{", CALLS[0][1] if name == "hermes" else ""):
        parser = format_of(name, thinks=True).parser(FUNCTIONS)
        parser.append(before)
        assert parser.append(" " * (MAX_SPACE + 1))
        assert parser.append(" ") == [Content(" ")]


def test_calls_beyond_the_most_are_left_out() -> None:
    for name, text, expected in CALLS:
        parts = parsed(format_of(name).parser(FUNCTIONS, max_calls=1), [text])
        calls = [part for part in expected if isinstance(part, FunctionCall)]
        assert [part for part in parts if isinstance(part, FunctionCall)] == calls[:1]


THOUGHTS: list[tuple[str, bool, list[Whole]]] = [
    ("<think>\nHm.\n</think>\n\nYes.", False, [Reasoning("Hm."), Content("Yes.")]),
    ("\n<think>Hm. </think>Yes.", False, [Reasoning("Hm. "), Content("Yes.")]),
    ("\nHm.\n\nSo\n</think>\n\nYes.", True, [Reasoning("Hm.\n\nSo"), Content("Yes.")]),
    ("Hm.\n\n\n</think>\n\n\nYes.", True, [Reasoning("Hm.\n"), Content("Yes.")]),
    ("Hm.\n</thin", True, [Reasoning("Hm.\n</thin")]),
    ("<think>\n\n</think>\n\nYes.", False, [Content("Yes.")]),
    ("Yes. <think>no</think>", False, [Content("Yes. <think>no</think>")]),
    (" <thi", False, [Content(" <thi")]),
    ("", True, []),
]


@pytest.mark.parametrize(("text", "begins_within", "expected"), THOUGHTS)
def test_reasoning_is_parted_from_the_answer(
    text: str, begins_within: bool, expected: list[Whole]
) -> None:
    parser = format_of("hermes", thinks=True).parser((), begins_in_reasoning=begins_within)
    assert parsed(parser, [text]) == expected


def test_a_call_that_was_only_thought_of_is_none() -> None:
    wish = '<tool_call>{"name": "stop"}</tool_call>'
    parts = read("hermes", f"<think>{wish}</think>{wish}", thinks=True)
    assert parts == [Reasoning(wish), END]


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_format_is_told_from_the_template_unless_it_is_named(name: str) -> None:
    by_template, by_name = format_of(name), answer_format("{{ tools }}", name)  # type: ignore[arg-type]
    assert by_template.calls is by_name.calls is not None
    assert not by_template.has_reasoning
    assert answer_format(TEMPLATES[name], "none", "think").calls is None
    assert answer_format(TEMPLATES[name], "none", "think").has_reasoning
    assert not answer_format(THINKING, "auto", "none").has_reasoning
    assert answer_format(None).calls is None


TEXTS = [text for name in BROKEN for text in BROKEN[name] if len(text) < 500]
TEXTS += (
    [text for _, text, _ in CALLS]
    + [text for text, _, _ in THOUGHTS]
    + [" ", "\\", '"', "é", " " * 200]
)


@given(
    name=st.sampled_from(sorted(TEMPLATES)),
    pieces=st.lists(st.sampled_from(TEXTS) | st.text(max_size=5), max_size=5),
    thinks=st.booleans(),
    begins=st.booleans(),
    seed=st.integers(0, 2**32),
)
def test_where_a_text_is_cut_makes_no_difference(
    name: str, pieces: list[str], thinks: bool, begins: bool, seed: int
) -> None:
    text = "".join(pieces)
    rng = random.Random(seed)
    cuts = sorted(rng.sample(range(len(text) + 1), min(len(text) + 1, rng.choice((1, 8, 10**6)))))
    parts = [text[start:end] for start, end in pairwise([0, *cuts, len(text)])]

    def of(pieces: list[str]) -> AnswerParser:
        form = format_of(name, thinks=thinks)
        return form.parser(FUNCTIONS, begins_in_reasoning=begins)

    assert joined(parts_of(of(parts), parts)) == joined(parts_of(of([text]), [text]))


@given(
    name=st.sampled_from(sorted(TEMPLATES)),
    index=st.integers(0, 10**6),
    edits=st.lists(
        st.tuples(st.integers(0, 10**6), st.sampled_from(["", '"', "{", "}", "<", "x"]))
    ),
)
def test_a_broken_call_raises_nothing_and_loses_no_character(
    name: str, index: int, edits: list[tuple[int, str]]
) -> None:
    texts = [text for kind, text, _ in CALLS if kind == name]
    text = texts[index % len(texts)]
    for place, new in edits:
        place %= len(text) + 1
        text = text[:place] + new + text[place + 1 :]
    parts = read(name, text)
    calls = [part for part in parts if isinstance(part, FunctionCall)]
    for one in calls:
        assert isinstance(json.loads(one.arguments), dict)
    if not calls:
        assert "".join(part.text for part in parts if isinstance(part, Content)) == text


def test_many_calls_are_read_in_one_pass() -> None:
    """As many as a context holds."""
    one = '{"name": "stop"}'
    calls = read_calls(f" {one};" + f"{one} ;\n" * 20_000, {"stop"}, re.compile(r"[;\s]*"))
    assert calls == [END] * 20_001

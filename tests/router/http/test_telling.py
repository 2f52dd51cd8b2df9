"""Calls and reasoning are told as OpenAI tells them, whole and in deltas."""

import json
from typing import Any

import pytest

from lengthwise_router.frontends.http.answers import Answer
from lengthwise_router.frontends.http.chat import ChatShape
from lengthwise_router.frontends.http.tools.asked import asked_tools
from lengthwise_router.text.tools.answer_format import answer_format

TOOLS = [{"type": "function", "function": {"name": name}} for name in ("f", "g")]
THINKS = "{{ tools }}<tool_call>{{ m.content.split('</think>') }}"
CALLS = (
    '<think>\nHm.\n</think>\n\nI call.\n<tool_call>\n{"name": "f", "arguments": {"a": "é"}}\n'
    '</tool_call>\n<tool_call>{"name": "g", "arguments": {}}</tool_call>'
)


def shape(template: str = THINKS, **fields: Any) -> ChatShape:
    asked = asked_tools(TOOLS, fields.get("choice"), fields.get("parallel"))
    return ChatShape(lambda token: b"", asked, answer_format(template))


def answer(text: str, reason: str | None = "stop") -> Answer:
    return Answer(0, pieces=[text], finish_reason=reason)


def test_a_whole_message_has_its_reasoning_its_words_and_its_calls() -> None:
    told, whole = shape(), answer(CALLS)
    message = told.choice(whole)["message"]
    assert told.finish_reason(whole) == "tool_calls"
    ids = [call.pop("id") for call in message["tool_calls"]]
    assert len({*ids}) == 2
    assert all(one.startswith("call_") for one in ids)
    assert message == {
        "role": "assistant",
        "content": "I call.\n",
        "refusal": None,
        "reasoning_content": "Hm.",
        "tool_calls": [
            {"type": "function", "function": {"name": "f", "arguments": '{"a": "é"}'}},
            {"type": "function", "function": {"name": "g", "arguments": "{}"}},
        ],
    }


def test_deltas_joined_are_the_message() -> None:
    for size in (1, 7, 1000):
        told = shape()
        deltas = []
        pieces = [CALLS[place : place + size] for place in range(0, len(CALLS), size)]
        for piece in pieces[:-1]:
            deltas += [each["delta"] for each in told.deltas(answer(piece, None))]
        last = answer(pieces[-1])
        deltas += [each["delta"] for each in told.deltas(last)]
        assert told.finish_reason(last) == "tool_calls"
        assert all(len(delta) == 1 for delta in deltas)
        assert "".join(d.get("content", "") for d in deltas) == "I call.\n"
        assert "".join(d.get("reasoning_content", "") for d in deltas) == "Hm."
        calls = [d["tool_calls"][0] for d in deltas if "tool_calls" in d]
        firsts = [call for call in calls if "id" in call]
        assert [call["function"]["name"] for call in firsts] == ["f", "g"]
        assert len([call for call in calls if "name" in call["function"]]) == 2
        indices = [call["index"] for call in calls]
        assert indices == sorted(indices)
        assert (len(calls) == 4) == (size == 1000), "arguments come as they are written"
        arguments = ["", ""]
        for call in calls:
            arguments[call["index"]] += call["function"]["arguments"]
        assert [json.loads(text) for text in arguments] == [{"a": "é"}, {}]


def test_one_call_at_most_without_parallel_ones() -> None:
    told = shape(parallel=False)
    assert len(told.choice(answer(CALLS))["message"]["tool_calls"]) == 1


@pytest.mark.parametrize(
    ("text", "choice", "reason"),
    [
        ('<tool_call>{"name": "f", "arg', None, "length"),
        ('<tool_call>{"name": "f", "arguments": }</tool_call>', None, "stop"),
        ('<tool_call>{"name": "f"}</tool_call>', "none", "stop"),
    ],
)
def test_what_is_no_call_is_content_and_ends_as_it_ended(
    text: str, choice: str | None, reason: str
) -> None:
    told, whole = shape(choice=choice), answer(text, reason)
    message = told.choice(whole)["message"]
    assert message == {"role": "assistant", "content": text, "refusal": None}
    assert told.finish_reason(whole) == reason
    assert "".join(each["delta"]["content"] for each in shape(choice=choice).deltas(whole)) == text


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('<tool_call>{"name": "f", "arguments": {"a": 1', "length"),
        ('<tool_call>{"name": "f", "arguments": {"a": 1,}}</tool_call>', "stop"),
        ('<tool_call>{"name": "g", "arguments": {}}</tool_call><tool_call>{"name": "f",'
         ' "arguments": {"a" 1}}</tool_call>', "stop"),
    ],
)  # fmt: skip
def test_a_call_that_breaks_after_it_began_is_content_too_and_the_reason_is_no_call(
    text: str, reason: str
) -> None:
    told = shape()
    deltas = [d for letter in text[:-1] for d in told.deltas(answer(letter, None))]
    last = answer(text[-1], reason)
    deltas = [each["delta"] for each in [*deltas, *told.deltas(last)]]
    assert told.finish_reason(last) == reason
    whole = shape().choice(answer(text, reason))["message"]
    assert "".join(delta.get("content", "") for delta in deltas) == whole["content"]
    begun = [delta["tool_calls"][0] for delta in deltas if "tool_calls" in delta]
    names = [call["function"]["name"] for call in begun if "id" in call]
    assert names == [*(["g"] if "tool_calls" in whole else []), "f"]


def test_calls_that_were_cut_off_after_one_end_with_length() -> None:
    told, whole = shape(), answer(CALLS + '<tool_call>{"name"', "length")
    assert len(told.choice(whole)["message"]["tool_calls"]) == 2
    assert told.finish_reason(whole) == "length"


def test_ids_are_as_templates_of_mistral_take_them() -> None:
    told = shape("{{ tools }}[TOOL_CALLS]")
    message = told.choice(answer('[TOOL_CALLS][{"name": "f", "arguments": {}}]'))["message"]
    (call,) = message["tool_calls"]
    assert len(call["id"]) == 9
    assert call["id"].isalnum()

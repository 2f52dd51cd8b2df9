"""Events tell of a response what the whole response tells, in OpenAI's order."""

from collections.abc import Sequence
from itertools import groupby
from typing import Any

import pytest
from openai.types.responses import ResponseStreamEvent
from pydantic import TypeAdapter

from lengthwise_router.frontends.http.responses.output import ResponseOutput
from lengthwise_router.frontends.http.tools.asked import asked_tools
from lengthwise_router.text.tools.answer_format import answer_format

TOOLS = [{"type": "function", "name": name} for name in ("f", "g")]
TEMPLATE = "{{ tools }}<tool_call>{{ m.content.split('</think>') }}"
TEXT = (
    '<think>\nHm.\n</think>\n\nI call.\n<tool_call>\n{"name": "f", "arguments": {"a": "é"}}\n'
    '</tool_call>\n<tool_call>{"name": "g", "arguments": {}}</tool_call>'
)
EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)


def output(template: str = TEMPLATE) -> ResponseOutput:
    form = answer_format(template)
    asked = asked_tools(TOOLS, None, None, is_flat=True)
    return ResponseOutput(asked.parser(form, begins_in_reasoning=False), form.new_call_id)


def told(
    made: ResponseOutput, pieces: Sequence[str], *, is_whole: bool = True
) -> list[dict[str, Any]]:
    events = [event for piece in pieces for event in made.append(piece, [])]
    return events + made.finish(is_whole=is_whole)


def without_names(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{k: v for k, v in item.items() if k not in ("id", "call_id")} for item in items]


def test_an_answer_is_its_reasoning_its_words_and_its_calls() -> None:
    made = output()
    told(made, [TEXT])
    thought, said, first, second = without_names(made.items)
    assert thought["content"] == [{"type": "reasoning_text", "text": "Hm."}]
    assert said["content"][0]["text"] == "I call.\n"
    assert (first["name"], first["arguments"]) == ("f", '{"a": "é"}')
    assert (second["name"], second["arguments"]) == ("g", "{}")
    assert {item["status"] for item in made.items} == {"completed"}


@pytest.mark.parametrize("size", [1, 5, 1000])
def test_events_in_their_order_make_the_items(size: int) -> None:
    made = output()
    events = told(made, [TEXT[place : place + size] for place in range(0, len(TEXT), size)])
    for number, event in enumerate(events):
        EVENT.validate_python({**event, "sequence_number": number}, strict=False)
    kinds = [event["type"].removeprefix("response.") for event in events]
    kinds = [kind for kind, _ in groupby(kinds)]
    text = ["output_item.added", "content_part.added", "KIND.delta", "KIND.done"]
    text += ["content_part.done", "output_item.done"]
    call = ["output_item.added", "function_call_arguments.delta", "function_call_arguments.done"]
    call += ["output_item.done"]
    expected = [each.replace("KIND", "reasoning_text") for each in text]
    expected += [each.replace("KIND", "output_text") for each in text]
    assert kinds == expected + call + call

    whole = output()
    told(whole, [TEXT])
    assert without_names(made.items) == without_names(whole.items)
    done = [event["item"] for event in events if event["type"] == "response.output_item.done"]
    assert done == made.items
    for index, item in enumerate(made.items):
        of_item = [event for event in events if event["output_index"] == index]
        assert {event["item_id"] for event in of_item if "item_id" in event} == {item["id"]}
        deltas = "".join(event["delta"] for event in of_item if "delta" in event)
        text_of = item.get("arguments") or item["content"][0]["text"]
        assert deltas == text_of


def test_what_is_no_call_after_all_is_a_message_and_told_so() -> None:
    text = '<tool_call>{"name": "f", "arguments": {"a": 1,}}</tool_call>'
    made = output()
    events = told(made, [*text])
    call, said = made.items
    assert (call["type"], call["status"]) == ("function_call", "incomplete")
    assert said["content"][0]["text"] == text
    assert made.whole_items == [said]
    assert [e["item"] for e in events if e["type"] == "response.output_item.done"] == made.items


def test_what_is_cut_off_is_incomplete() -> None:
    made = output()
    told(made, ["Half a sen"], is_whole=False)
    (said,) = made.items
    assert said["status"] == "incomplete"


def test_an_answer_of_nothing_is_an_empty_message() -> None:
    made = output()
    events = told(made, [""])
    assert made.items[0]["content"][0]["text"] == ""
    assert [event["type"] for event in events if "delta" in event["type"]] == []


def test_log_probabilities_come_with_what_is_said() -> None:
    made = output()
    events = made.append("<thi", [{"token": "<thi"}]) + made.append("s", [{"token": "s"}])
    events += made.append("", [{"token": ""}]) + made.finish(is_whole=True)
    deltas = [event for event in events if event["type"].endswith("output_text.delta")]
    assert [event["logprobs"] for event in deltas] == [[{"token": "<thi"}, {"token": "s"}]]
    assert [each["token"] for each in made.items[0]["content"][0]["logprobs"]] == ["<thi", "s", ""]

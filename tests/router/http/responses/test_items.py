"""`instructions` and `input` become the conversation that they are."""

from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict

from lengthwise_router.frontends.http.errors import HttpError
from lengthwise_router.frontends.http.responses.items import turns
from lengthwise_wire.errors import InvalidRequest

CALL = {"type": "function_call", "call_id": "c1", "name": "f", "arguments": '{"a": 1}'}
RESULT = {"type": "function_call_output", "call_id": "c1", "output": "21"}
THOUGHT = {
    "type": "reasoning",
    "id": "rs_1",
    "summary": [],
    "content": [{"type": "reasoning_text", "text": "Hm."}],
}
SAID = {
    "type": "message",
    "id": "msg_1",
    "status": "completed",
    "role": "assistant",
    "content": [{"type": "output_text", "text": "I call.", "annotations": []}],
}


def told(given: object, instructions: str | None = None) -> list[dict[str, Any]]:
    messages = turns(given, instructions)
    return [MessageToDict(each, preserving_proto_field_name=True) for each in messages]


def test_a_text_is_what_the_user_says_after_the_instructions() -> None:
    assert told("hello", "Be brief.") == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "hello"},
    ]


def test_what_an_assistant_thought_said_and_called_is_one_message() -> None:
    user = {"role": "user", "content": [{"type": "input_text", "text": "How warm?"}]}
    other = {**CALL, "call_id": "c2"}
    assert told([user, THOUGHT, SAID, CALL, other, RESULT, {**RESULT, "call_id": "c2"}]) == [
        {"role": "user", "content": "How warm?"},
        {
            "role": "assistant",
            "reasoning_content": "Hm.",
            "content": "I call.",
            "tool_calls": [
                {"id": "c1", "name": "f", "arguments": '{"a": 1}'},
                {"id": "c2", "name": "f", "arguments": '{"a": 1}'},
            ],
        },
        {"role": "tool", "content": "21", "tool_call_id": "c1"},
        {"role": "tool", "content": "21", "tool_call_id": "c2"},
    ]


def test_what_follows_a_call_or_a_text_of_the_same_kind_is_another_message() -> None:
    roles = [len(told(items)) for items in ([SAID, SAID], [CALL, SAID], [CALL, THOUGHT, SAID])]
    assert roles == [2, 2, 2]


def test_reasoning_that_only_its_writer_can_read_is_left_out() -> None:
    sealed = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "gAAA"}
    assert told([sealed, {"role": "developer", "content": "hi"}]) == [
        {"role": "system", "content": "hi"}
    ]


@pytest.mark.parametrize(
    ("given", "place"),
    [
        (5, "input"),
        (None, "input"),
        ({}, "input"),
        ([], "input"),
        ([5], "input[0]"),
        ([None], "input[0]"),
        ([[]], "input[0]"),
        ([{}], "input[0].role"),
        ([{"type": 5}], "input[0].type"),
        ([{"type": ["message"]}], "input[0].type"),
        ([{"type": "item_reference", "id": "msg_1"}], "input[0].type"),
        ([{"type": "web_search_call"}], "input[0].type"),
        ([{"role": "user", "content": 5}], "input[0].content"),
        ([{"role": "user"}], "input[0].content"),
        ([{"role": ["user"], "content": "a"}], "input[0].role"),
        ([{"role": "user", "content": [{"type": "input_image"}]}], "input[0].content[0].type"),
        ([{"role": "user", "content": [{"type": "input_text"}]}], "input[0].content[0].text"),
        ([{"role": "user", "content": "a", "tool_calls": []}], "input[0]"),
        ([{**CALL, "name": None}], "input[0].name"),
        ([{**CALL, "arguments": {}}], "input[0].arguments"),
        ([{**CALL, "call_id": "\ud800"}], "input[0].call_id"),
        ([{"type": "function_call_output", "output": "a"}], "input[0].call_id"),
        ([{"type": "function_call_output", "call_id": "c", "output": {}}], "input[0].output"),
        ([{**THOUGHT, "content": [{"type": "text", "text": ""}]}], "input[0].content[0].type"),
        ([SAID] * 4097, "input"),
        ([CALL] * 129, "input[128]"),
    ],
)
def test_what_is_no_item_is_refused_with_its_place(given: object, place: str) -> None:
    with pytest.raises((InvalidRequest, HttpError)) as caught:
        turns(given, None)
    error = caught.value
    found = error.param if isinstance(error, HttpError) else str(error).partition(":")[0]
    assert found == place, str(error)

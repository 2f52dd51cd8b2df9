"""Functions as the SDK takes them, and calls as it returns them."""

from typing import Any

import pytest

from lengthwise import AsyncClient, Client, InvalidRequest, Message, ToolCall, ToolCallDelta
from lengthwise.fake import AsyncFakeTransport, FakeTransport
from lengthwise_wire.v1 import inference_pb2 as pb

WEATHER: Any = {
    "type": "function",
    "function": {"name": "get_weather", "parameters": {"type": "object"}},
}
STOP: Any = {"type": "function", "function": {"name": "stop"}}
ASKED = [Message("user", "How warm is it?")]
CALL = ToolCall(id="c1", name="get_weather", arguments='{"city": "Rome"}')


def part(**kind: Any) -> pb.AnswerPart:
    return pb.AnswerPart(**kind)


def reply() -> list[Any]:
    """As a router tells of two calls, of which the second is none."""
    pieces: list[tuple[str, list[pb.AnswerPart]]] = [
        ("<think>Hm.</think>I call.", [part(reasoning="Hm."), part(content="I call.")]),
        (
            '<tool_call>{"name": "get_weather", "arguments": {"city": ',
            [
                part(call=pb.ToolCall(id="c1", name="get_weather")),
                part(arguments='{"city": '),
            ],
        ),
        (
            '"Rome"}}</tool_call>',
            [part(arguments='"Rome"}'), part(calls_end=pb.CallsEnd())],
        ),
        ("<tool_call>{", [part(call=pb.ToolCall(id="c2", name="stop")), part(arguments="{")]),
        ("", [part(calls_end=pb.CallsEnd(is_void=True)), part(content="<tool_call>{")]),
    ]
    return [
        pb.GenerateResponse(index=index, token_ids=[index], text=text, parts=parts)
        for index, (text, parts) in enumerate(pieces)
    ]


async def test_what_is_called_comes_whole_apart_from_what_is_said_and_thought() -> None:
    fake = FakeTransport(reply())
    with Client(transports=[fake]) as client:
        completion = client.chat(ASKED, tools=[WEATHER, STOP])
    assert completion.tool_calls == (CALL,)
    assert completion.content == "I call.<tool_call>{"
    assert completion.reasoning == "Hm."
    assert completion.text.startswith("<think>")
    async with AsyncClient(transports=[AsyncFakeTransport(reply())]) as many:
        again = await many.chat(ASKED, tools=[WEATHER, STOP])
    assert again.tool_calls == completion.tool_calls


def test_a_stream_tells_of_a_call_as_it_is_written_and_once_it_is_whole() -> None:
    with Client(transports=[FakeTransport(reply())]) as client:
        chunks = [*client.stream(ASKED, tools=[WEATHER, STOP])]
    deltas = [delta for chunk in chunks for delta in chunk.tool_call_deltas]
    assert deltas == [
        ToolCallDelta(index=0, id="c1", name="get_weather"),
        ToolCallDelta(index=0, arguments='{"city": '),
        ToolCallDelta(index=0, arguments='"Rome"}'),
        ToolCallDelta(index=1, id="c2", name="stop"),
        ToolCallDelta(index=1, arguments="{"),
    ]
    assert [chunk.tool_calls for chunk in chunks if chunk.tool_calls] == [(CALL,)]


def test_a_conversation_goes_on_with_the_message_and_the_result() -> None:
    fake = FakeTransport(reply(), "It is warm.")
    with Client(transports=[fake]) as client:
        first = client.chat(ASKED, tools=[WEATHER])
        result = Message("tool", "21", tool_call_id=first.tool_calls[0].id)
        again = client.chat([*ASKED, first.message, result], tools=[WEATHER])
    assert again.content == again.text == "It is warm."
    assert again.message == Message("assistant", "It is warm.")
    _, called, told = fake.requests[1].prompt.conversation.messages
    assert [(call.id, call.name) for call in called.tool_calls] == [("c1", "get_weather")]
    assert (called.content, called.reasoning_content) == ("I call.<tool_call>{", "Hm.")
    assert (told.role, told.tool_call_id, told.content) == ("tool", "c1", "21")


def test_mappings_are_messages_as_openais_package_writes_them() -> None:
    fake = FakeTransport("a")
    function = {"name": "get_weather", "arguments": CALL.arguments}
    call = {"id": "c1", "type": "function", "function": function}
    messages: Any = [
        {"role": "user", "content": "How warm is it?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "21", "tool_call_id": "c1"},
    ]
    with Client(transports=[fake]) as client:
        client.chat(messages)
    _, called, told = fake.requests[0].prompt.conversation.messages
    assert not called.HasField("content")
    assert called.tool_calls[0].arguments == CALL.arguments
    assert told.tool_call_id == "c1"
    assert not fake.requests[0].HasField("parts")


@pytest.mark.parametrize(
    ("options", "choice", "function", "single"),
    [
        ({}, 0, "", False),
        ({"tool_choice": "auto", "parallel_tool_calls": True}, 0, "", False),
        ({"tool_choice": "none"}, pb.TOOL_CHOICE_NONE, "", False),
        ({"tool_choice": "required"}, pb.TOOL_CHOICE_REQUIRED, "", False),
        ({"tool_choice": "stop", "parallel_tool_calls": False}, 0, "stop", True),
    ],
)
def test_what_may_be_called_is_sent(options: Any, choice: int, function: str, single: bool) -> None:
    fake = FakeTransport("a")
    with Client(transports=[fake]) as client:
        client.chat(ASKED, tools=[WEATHER, STOP], **options)
    asked = fake.requests[0].parts
    assert (asked.tool_choice, asked.function, asked.single_call) == (choice, function, single)
    assert len(fake.requests[0].prompt.conversation.tools) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tools": [{"name": "f"}]}, "tools[0]: got {'name': 'f'}, expected {'type': 'function'"),
        ({"tools": ["f"]}, "tools[0]: got 'f'"),
        ({"tools": "f"}, "tools: got str"),
        ({"tools": WEATHER}, "tools: got dict"),
        ({"tools": [STOP] * 129}, "tools: got 129"),
        ({"tools": [{**STOP, "x": object()}]}, "tools[0]: it cannot be JSON"),
        ({"tools": [{"type": "function", "function": {"name": 5}}]}, "name: got int"),
        ({"tools": [STOP], "tool_choice": "unknown"}, "tool_choice: got 'unknown'"),
        ({"tools": [STOP], "tool_choice": {"type": "function"}}, "tool_choice: got {'type'"),
        ({"tools": [STOP], "parallel_tool_calls": 1}, "parallel_tool_calls: got 1"),
        ({"tool_choice": "required"}, "tool_choice: got 'required' without tools"),
    ],
)
def test_what_cannot_be_called_is_refused(options: Any, message: str) -> None:
    client = Client(transports=[FakeTransport("never sent")])
    with pytest.raises(InvalidRequest) as caught:
        client.chat(ASKED, **options)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"role": "assistant", "tool_calls": "c1"}, "tool_calls: got str"),
        ({"role": "assistant", "tool_calls": [5]}, "tool_calls[0]: got 5"),
        ({"role": "assistant", "tool_calls": [{"function": {}}]}, "tool_calls[0].id: got NoneType"),
        ({"role": "tool", "content": "a", "tool_call_id": 5}, "tool_call_id: got int"),
        (Message("tool", None, tool_call_id="c1"), "content: got NoneType"),
        (Message("assistant", "a", tool_calls=(5,)), "tool_calls[0]: got 5"),  # type: ignore[arg-type]
    ],
)
def test_what_is_no_message_is_refused_with_its_place(given: Any, message: str) -> None:
    client = Client(transports=[FakeTransport("never sent")])
    with pytest.raises(InvalidRequest) as caught:
        client.chat([given])
    assert message in str(caught.value)


def test_functions_are_for_conversations() -> None:
    client = Client(transports=[FakeTransport("never sent")])
    with pytest.raises(InvalidRequest, match="expected Messages"):
        client.generate("a text", tools=[STOP])

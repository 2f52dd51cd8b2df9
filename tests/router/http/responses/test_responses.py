"""What the `openai` package gets from `/v1/responses`, and what is refused there."""

import json
from typing import Any

import openai
import pytest
from router.http.raw import JSON, ServedHttp, answer, error_of
from router.stub_workers import MODEL

pytestmark = pytest.mark.asyncio(loop_scope="module")

RENDERED = "<system>be<user>hello<assistant>"
ASKED: Any = {"model": MODEL, "instructions": "be", "input": "hello"}


async def test_a_response_has_text_usage_and_what_was_asked(shared: ServedHttp) -> None:
    response = await shared.openai.responses.create(
        **ASKED,
        max_output_tokens=6,
        metadata={"a": "b"},
        temperature=0.5,
        user="me",
        store=False,
        extra_headers={"x-request-id": "mine"},
    )
    assert response.output_text == answer(RENDERED, 6)
    assert (response.id, response.object, response.model) == ("resp_mine", "response", MODEL)
    assert response.status == "incomplete"
    assert response.incomplete_details is not None
    assert response.incomplete_details.reason == "max_output_tokens"
    assert response.usage is not None
    assert (response.usage.input_tokens, response.usage.output_tokens) == (len(RENDERED), 6)
    assert response.usage.output_tokens_details.reasoning_tokens == 0
    assert (response.metadata, response.temperature) == ({"a": "b"}, 0.5)
    assert (response.instructions, response.user) == ("be", "me")


async def test_an_answer_that_ends_by_itself_is_completed(shared: ServedHttp) -> None:
    stop = answer(RENDERED, 6)[4:6]
    response = await shared.openai.responses.create(**ASKED, extra_body={"stop": stop})
    assert response.status == "completed"
    assert response.output_text == answer(RENDERED, 6).partition(stop)[0]


async def test_items_are_rendered_by_the_template(shared: ServedHttp) -> None:
    items: Any = [
        {"role": "developer", "content": "be"},
        {"role": "user", "content": [{"type": "input_text", "text": "hello"}]},
    ]
    response = await shared.openai.responses.create(model=MODEL, input=items, max_output_tokens=6)
    assert response.output_text == answer(RENDERED, 6)


async def test_a_stream_has_every_event_in_its_order(shared: ServedHttp) -> None:
    stream = await shared.openai.responses.create(**ASKED, max_output_tokens=9, stream=True)
    events = [event async for event in stream]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    kinds = [event.type.removeprefix("response.") for event in events]
    first = ["created", "in_progress", "output_item.added", "content_part.added"]
    last = ["output_text.done", "content_part.done", "output_item.done", "incomplete"]
    num_deltas = len(kinds) - len(first) - len(last)
    assert num_deltas >= 1
    assert kinds == first + ["output_text.delta"] * num_deltas + last
    assert isinstance(events[-1], openai.types.responses.ResponseIncompleteEvent)
    assert events[-1].response.output_text == answer(RENDERED, 9)
    deltas = [e.delta for e in events if e.type == "response.output_text.delta"]
    assert "".join(deltas) == answer(RENDERED, 9)


async def test_the_events_are_named_and_nothing_follows_the_last(shared: ServedHttp) -> None:
    body = {**ASKED, "max_output_tokens": 3, "stream": True}
    raw = (await shared.plain.post("/v1/responses", json=body)).text
    events = [event.split("\n") for event in raw.strip().split("\n\n")]
    for name, data in events:
        assert name == f"event: {json.loads(data.removeprefix('data: '))['type']}"
    assert events[-1][0] == "event: response.incomplete"


async def test_the_streams_of_the_package_end_with_the_response(shared: ServedHttp) -> None:
    stop = answer(RENDERED, 8)[6:8]
    async with shared.openai.responses.stream(**ASKED, extra_body={"stop": stop}) as stream:
        kinds = [event.type async for event in stream]
        response = await stream.get_final_response()
    assert kinds[-1] == "response.completed"
    assert response.output_text == answer(RENDERED, 8).partition(stop)[0]


@pytest.mark.parametrize("stream", [False, True])
async def test_log_probabilities_are_told_where_they_are_included(
    shared: ServedHttp, stream: bool
) -> None:
    made: Any = await shared.openai.responses.create(
        **ASKED,
        max_output_tokens=5,
        include=["message.output_text.logprobs"],
        top_logprobs=2,
        stream=stream,
    )
    if stream:
        made = [event async for event in made][-1].response
    logprobs = made.output[0].content[0].logprobs
    assert "".join(each.token for each in logprobs) == answer(RENDERED, 5)
    assert all(len(each.top_logprobs) == 2 for each in logprobs)


async def test_a_stream_that_breaks_ends_with_a_response_that_failed(
    shared: ServedHttp,
) -> None:
    decode = shared.deployment.decode[0]
    decode.end_error, decode.end_refuses = (3, "as the test wants it"), True
    try:
        stream = await shared.openai.responses.create(**ASKED, stream=True)
        events = [event async for event in stream]
    finally:
        decode.end_error, decode.end_refuses = None, False
    assert isinstance(events[-1], openai.types.responses.ResponseFailedEvent)
    response = events[-1].response
    assert response.status == "failed"
    assert response.error is not None
    assert "as the test wants it" in response.error.message
    said: Any = response.output[0]
    assert said.status == "incomplete"
    assert answer(RENDERED, 3).startswith(response.output_text)
    await shared.still_serves()


async def test_what_the_package_sends_neutrally_is_served(shared: ServedHttp) -> None:
    await shared.openai.responses.create(
        **ASKED,
        max_output_tokens=2,
        background=False,
        include=["reasoning.encrypted_content"],
        parallel_tool_calls=True,
        previous_response_id=None,
        reasoning={"effort": "none"},
        service_tier="auto",
        text={"format": {"type": "text"}, "verbosity": "medium"},
        tool_choice="auto",
        tools=[],
        truncation="disabled",
    )


NAMED = {"type": "json_schema", "name": "n", "schema": {"type": "object"}}
TOOL = {"type": "function", "name": "f"}
WRONG: list[tuple[dict[str, Any], str | None]] = [
    ({"model": None}, "model"),
    ({"model": 5}, "model"),
    ({"input": None}, "input"),
    ({"input": ["a"]}, "input[0]"),
    ({"instructions": 5}, "instructions"),
    ({"instructions": "\ud800"}, "instructions"),
    ({"max_output_tokens": 0}, "max_output_tokens"),
    ({"max_output_tokens": "5"}, "max_output_tokens"),
    ({"max_output_tokens": 5000}, "max_output_tokens"),
    ({"max_tokens": 5}, None),
    ({"messages": []}, None),
    ({"n": 2}, None),
    ({"store": True}, "store"),
    ({"store": 0}, "store"),
    ({"previous_response_id": "resp_1"}, "previous_response_id"),
    ({"conversation": "c"}, "conversation"),
    ({"background": True}, "background"),
    ({"truncation": "auto"}, "truncation"),
    ({"reasoning": {"effort": "high"}}, "reasoning"),
    ({"prompt": {"id": "p"}}, "prompt"),
    ({"include": ["web_search_call.results"]}, "include[0]"),
    ({"include": "logprobs"}, "include"),
    ({"top_logprobs": 3}, "top_logprobs"),
    ({"top_logprobs": 21, "include": ["message.output_text.logprobs"]}, "top_logprobs"),
    ({"metadata": {"a": 5}}, "metadata.a"),
    ({"metadata": {"a": "x" * 513}}, "metadata"),
    ({"metadata": {"x" * 65: "a"}}, "metadata"),
    ({"metadata": {str(n): "" for n in range(17)}}, "metadata"),
    ({"temperature": -1}, "temperature"),
    ({"top_p": "x"}, "top_p"),
    ({"stop": ["x" * 257]}, "stop[0]"),
    ({"stream_options": {"include_usage": True}, "stream": True}, "stream_options.include_usage"),
    ({"stream_options": {}}, "stream_options"),
    ({"text": {"format": {"type": "xml"}}}, "text.format"),
    ({"text": {"format": NAMED | {"schema": {"type": "objekt"}}}}, "text.format"),
    ({"text": {"format": NAMED | {"schema": 5}}}, "text.format.json_schema.schema"),
    ({"text": {"verbosity": "high"}}, "text.verbosity"),
    ({"tools": [TOOL]}, "tools"),
    ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
    ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools[0].name"),
    ({"tools": [TOOL, TOOL]}, "tools[1].name"),
    ({"tools": [TOOL | {"parameters": {"type": "string"}}]}, "tools[0].parameters"),
    ({"tools": [TOOL], "tool_choice": {"type": "function"}}, "tool_choice.name"),
    ({"tools": [TOOL], "tool_choice": {"type": "function", "name": "g"}}, "tool_choice"),
    ({"tools": [TOOL], "tool_choice": {"type": "web_search"}}, "tool_choice.type"),
    ({"tool_choice": "required"}, "tool_choice"),
    ({"chat_template_kwargs": {"messages": []}}, "input"),
    ({"input": "x" * 2000}, "input"),
    ({"input": "x" * (5 << 20)}, "input"),
]


@pytest.mark.parametrize(("fields", "param"), WRONG)
async def test_what_is_wrong_is_refused_with_the_field(
    shared: ServedHttp, fields: dict[str, Any], param: str | None
) -> None:
    response = await shared.post(json.dumps({**ASKED, **fields}).encode(), "/v1/responses")
    error = error_of(response)
    assert (response.status_code, error["param"]) == (400, param), error
    assert len(error["message"]) < 1_500
    assert "messages" not in (error["param"] or "")


async def test_deep_and_large_bodies_are_refused(shared: ServedHttp) -> None:
    for place in ("input", "tools", "text", "metadata"):
        for deep in ("[" * 100_000 + "]" * 100_000, '{"a":' * 10_000 + "1" + "}" * 10_000):
            body = json.dumps({**ASKED, place: 0}).replace(f'"{place}": 0', f'"{place}": {deep}')
            response = await shared.post(body.encode(), "/v1/responses")
            assert response.status_code == 400, place
    response = await shared.plain.post(
        "/v1/responses", content=b'{"input": "' + b"a" * (50 << 20) + b'"}', headers=JSON
    )
    assert response.status_code == 413
    await shared.still_serves()


async def test_an_unknown_model_and_a_stored_response_are_not_found(shared: ServedHttp) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        await shared.openai.responses.create(model="other", input="hello")
    assert caught.value.code == "model_not_found"
    with pytest.raises(openai.NotFoundError):
        await shared.openai.responses.retrieve("resp_1")

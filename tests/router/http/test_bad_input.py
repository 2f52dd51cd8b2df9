"""What OpenAI's API refuses is refused as it does, whatever else is sent is bounded, and others
notice nothing."""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from router.http.raw import JSON, ServedHttp, error_of
from router.stub_workers import MODEL

from lengthwise_router.frontends.http import body as bodies
from lengthwise_router.frontends.http.fields import fields_of

pytestmark = pytest.mark.asyncio(loop_scope="module")

CHAT = "/v1/chat/completions"

FIELDS: list[tuple[dict[str, Any], str | None]] = [
    ({"temperature": "1"}, "temperature"),
    ({"temperature": True}, "temperature"),
    ({"temperature": -1}, "temperature"),
    ({"temperature": 10**400}, "temperature"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_tokens": 1.5}, "max_tokens"),
    ({"max_tokens": 10**30}, "max_tokens"),
    ({"max_tokens": 100_000}, "max_tokens"),
    ({"n": 0}, "n"),
    ({"n": 129}, "n"),
    ({"n": 10**9}, "n"),
    ({"prompt": ["a"] * 100, "n": 2}, "n"),
    ({"best_of": 2}, "best_of"),
    ({"suffix": "b"}, "suffix"),
    ({"seed": 2**64}, "seed"),
    ({"seed": "1"}, "seed"),
    ({"stop": [""]}, "stop[0]"),
    ({"stop": ["a"] * 17}, "stop"),
    ({"stop": 5}, "stop"),
    ({"stop": [5]}, "stop[0]"),
    ({"stop": ["\ud800"]}, "stop[0]"),
    ({"logit_bias": {"x": 1}}, "logit_bias"),
    ({"logit_bias": {"9" * 30: 1}}, "logit_bias"),
    ({"logit_bias": {"9" * 10: 1}}, "logit_bias"),
    ({"logit_bias": {"1": 101}}, "logit_bias[1]"),
    ({"logit_bias": {"\ud800": 1}}, "logit_bias"),
    ({"logit_bias": {"300000": 1}}, "logit_bias"),
    ({"logprobs": 21}, "top_logprobs"),
    ({"logprobs": True}, "logprobs"),
    ({"echo": True, "logprobs": 1}, "echo"),
    ({"stream_options": {"include_usage": True}}, "stream_options"),
    ({"stream": True, "stream_options": {"other": 1}}, "stream_options.other"),
    ({"stream": "yes"}, "stream"),
    ({"prompt": ""}, "prompt"),
    ({"prompt": []}, "prompt"),
    ({"prompt": None}, "prompt"),
    ({"prompt": 5}, "prompt"),
    ({"prompt": {"a": 1}}, "prompt"),
    ({"prompt": ["a", 5]}, "prompt[1]"),
    ({"prompt": [5, "a"]}, "prompt[1]"),
    ({"prompt": [-1]}, "prompt[0]"),
    ({"prompt": [2**32]}, "prompt[0]"),
    ({"prompt": [True, 1]}, "prompt[0]"),
    ({"prompt": [10**6]}, "prompt"),
    ({"prompt": [[]]}, "prompt"),
    ({"prompt": "\ud800"}, "prompt"),
    ({"prompt": "a" * 600}, "prompt"),
    ({"prompt": [1] * 600}, "prompt"),
    ({"prompt": "a" * (5 << 20)}, "prompt"),
    ({"priority": 101}, "priority"),
    ({"tenant": "a\nb"}, "tenant"),
    ({"cache_salt": ""}, "cache_salt"),
    ({"stop_token_ids": list(range(257))}, "stop_token_ids"),
    ({"user": 5}, "user"),
    ({"unknown": 1}, None),
    ({"\ud800": 1}, None),
    ({"messages": []}, None),
    ({"model": 5}, "model"),
    ({"model": "\ud800"}, "model"),
]


async def test_a_field_that_is_wrong_is_named(shared: ServedHttp) -> None:
    for fields, param in FIELDS:
        response = await shared.complete(**fields)
        told = f"{fields!r:.80}: {response.text}"
        assert response.status_code == 400, told
        error = error_of(response)
        assert error["type"] == "invalid_request_error", told
        assert error["param"] == param, told
        assert len(response.content) < 4096, told
    await shared.still_serves()


MESSAGES: list[Any] = [
    None,
    [],
    "hello",
    ["hello"],
    [{"role": "user"}],
    [{"role": "user", "content": None}],
    [{"role": "user", "content": 5}],
    [{"role": "", "content": "a"}],
    [{"role": 5, "content": "a"}],
    [{"content": "a"}],
    [{"role": "user", "content": "\ud800"}],
    [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}],
    [{"role": "user", "content": [{"type": "text"}]}],
    [{"role": "user", "content": [{"type": ["text"]}]}],
    [{"role": "user", "content": ["a"]}],
    [{"role": "user", "content": [{"type": "text", "text": ""}] * 2000}],
    [{"role": "assistant", "content": "a", "tool_calls": [{"id": "1"}]}],
    [{"role": "user", "content": "a", "unknown": 1}],
    [{"role": "user", "content": "a"}] * 5000,
]


async def test_messages_that_are_none_are_refused(shared: ServedHttp) -> None:
    for messages in MESSAGES:
        body = json.dumps({"model": MODEL, "messages": messages}).encode()
        response = await shared.post(body, CHAT)
        told = f"{messages!r:.80}: {response.text}"
        assert response.status_code == 400, told
        assert error_of(response)["param"].startswith("messages"), told
    await shared.still_serves()


FORMATS: list[tuple[Any, str]] = [
    ("json_object", "response_format"),
    ({"type": "xml"}, "response_format"),
    ({"type": "json_schema"}, "response_format.json_schema.json_schema"),
    ({"type": "json_schema", "json_schema": {"name": "a", "schema": []}}, "response_format."),
    (
        {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": 1}}},
        "response_format",
    ),
    (
        {"type": "json_schema", "json_schema": {"name": "a", "schema": {"$ref": "#/x"}}},
        "response_format",
    ),
    (
        {"type": "json_schema", "json_schema": {"name": "a", "schema": {"enum": ["a" * 70_000]}}},
        "response_format",
    ),
    (
        {
            "type": "json_schema",
            "json_schema": {
                "name": "a",
                "schema": {"type": "string", "pattern": "^((a{100}){100}){100}$"},
            },
        },
        "response_format",
    ),
]


@pytest.mark.slow
async def test_formats_that_are_none_are_refused(shared: ServedHttp) -> None:
    for response_format, param in FORMATS:
        body = {
            "model": MODEL,
            "messages": [{"role": "user", "content": "a"}],
            "response_format": response_format,
        }
        response = await shared.post(json.dumps(body).encode(), CHAT)
        told = f"{response_format!r:.80}: {response.text}"
        assert response.status_code == 400, told
        assert error_of(response)["param"].startswith(param), told
    await shared.still_serves()


async def test_what_is_not_served_is_refused_with_a_reason(shared: ServedHttp) -> None:
    refused = [field.name for field in fields_of("chat").values() if field.handling == "refused"]
    for name in refused:
        body = {"model": MODEL, "messages": [{"role": "user", "content": "a"}], name: [1]}
        error = error_of(await shared.post(json.dumps(body).encode(), CHAT))
        assert (error["param"], error["code"]) == (name, "unsupported_parameter")


async def test_what_asks_for_nothing_is_let_pass(shared: ServedHttp) -> None:
    completion = await shared.openai.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": "a"}],
        max_tokens=2,
        response_format={"type": "text"},
        tool_choice="none",
        store=False,
        metadata={"a": "b"},
        service_tier="auto",
        safety_identifier="x",
    )
    assert completion.choices[0].message.content


BODIES: list[tuple[bytes, str]] = [
    (b"", "not JSON"),
    (b"{", "not JSON"),
    (b"[]", "an array"),
    (b"null", "null"),
    (b'"a"', "a string"),
    (b"5", "a number"),
    (b"true", "a boolean"),
    (b'{"model": "\xff"}', "not UTF-8"),
    ('{"model": "a"}'.encode("utf-16"), "not UTF-8"),
    (b'\xef\xbb\xbf{"model": "a"}', "not JSON"),
    (b'{"temperature": NaN}', "NaN"),
    (b'{"temperature": -Infinity}', "-Infinity"),
    (b'{"seed": ' + b"9" * 5000 + b"}", "too many digits"),
    (b'{"model": "a", "prompt": "a", "temperature": 1e999}', "temperature"),
    (b'{"model": "a", "model": "b"}', "twice"),
    (b'{"a": {"b": 1, "b": 2}}', "twice"),
    (b"{%s}" % b",".join(b'"%d": 0' % (number % 59_999) for number in range(60_000)), "twice"),
    (b'{"a": ' + b"[" * 100_000, "too deep"),
    (b'{"a":' * 50_000, "too deep"),
    (b"[" * 1_000_000 + b"]" * 1_000_000, "too deep"),
]


async def test_a_body_that_is_no_object_is_refused(shared: ServedHttp) -> None:
    for body, reason in BODIES:
        response = await shared.post(body)
        told = f"{body!r:.80}: {response.text}"
        assert response.status_code == 400, told
        assert reason in error_of(response)["message"], told
    await shared.still_serves()


async def test_a_body_that_says_to_be_large_is_refused_before_it_comes(shared: ServedHttp) -> None:
    response = await shared.post(b" " * (50 << 20))
    assert response.status_code == 413
    assert error_of(response)["code"] == "request_too_large"
    await shared.still_serves()


async def test_a_body_that_does_not_say_so_is_counted(shared: ServedHttp) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(50):
            yield b" " * (1 << 20)

    response = await shared.plain.post("/v1/completions", content=chunks(), headers=JSON)
    assert response.status_code == 413
    await shared.still_serves()


async def test_values_are_counted_before_they_are_made(shared: ServedHttp) -> None:
    """Texts may have as many commas as they like."""
    many: tuple[list[Any], ...] = ([1] * 70_000, [{}] * 70_000, [[]] * 70_000)
    for prompt in many:
        response = await shared.complete(prompt=prompt)
        assert response.status_code == 413
        assert "values" in error_of(response)["message"]
    response = await shared.complete(prompt='",' * 70_000)
    assert error_of(response)["code"] == "context_length_exceeded"
    await shared.still_serves()


async def test_large_bodies_of_all_callers_are_bounded(
    shared: ServedHttp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bodies, "MAX_LARGE_BYTES", 1 << 20)
    response = await shared.complete(prompt="a" * (2 << 20))
    assert response.status_code == 429
    assert response.headers["retry-after"] == "1"
    await shared.still_serves()
    monkeypatch.undo()
    assert (await shared.complete(prompt="a" * (2 << 20))).status_code == 400


async def test_only_json_is_taken(shared: ServedHttp) -> None:
    """A page of another origin could send the rest without being asked for permission."""
    response = await shared.plain.post("/v1/completions", content=b"{}")
    assert response.status_code == 415
    assert error_of(response)["code"] == "unsupported_media_type"


async def test_an_unknown_path_method_or_model_is_told(shared: ServedHttp) -> None:
    assert error_of(await shared.plain.get("/v2"))["type"] == "invalid_request_error"
    response = await shared.plain.get("/v1/completions")
    assert (response.status_code, error_of(response)["param"]) == (405, None)
    assert response.headers["allow"] == "POST"
    response = await shared.complete(model="other")
    assert (response.status_code, error_of(response)["code"]) == (404, "model_not_found")
    response = await shared.complete(model="")
    assert error_of(response)["message"] == "you must provide a model parameter"


async def test_an_id_that_cannot_be_one_is_refused(shared: ServedHttp) -> None:
    for request_id in ("x" * 129, "", "a\x85b"):
        response = await shared.plain.get(
            "/v1/models", headers={b"x-request-id": request_id.encode("latin-1")}
        )
        assert response.status_code == 400
        assert response.headers["x-request-id"] not in (request_id, "")


async def test_a_bad_request_to_tokenize_is_refused(shared: ServedHttp) -> None:
    both = {"prompt": "a", "messages": []}
    for body in ({}, both, {"prompt": 5}, {"prompt": "a", "other": 1}, {"prompt": ""}):
        response = await shared.plain.post("/tokenize", json=body)
        assert response.status_code == 400, body
        assert error_of(response)["message"]


async def test_tokens_that_are_none_are_not_turned_into_text(shared: ServedHttp) -> None:
    for tokens in (None, "a", [-1], [10**6], ["a"], [1.5], [0] * 1000):
        response = await shared.plain.post("/detokenize", json={"tokens": tokens})
        assert response.status_code == 400, tokens
        assert error_of(response)["param"].startswith("tokens")

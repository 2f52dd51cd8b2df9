"""What is wrong with a request is said before it is sent, by the name of the field."""

import math
import re
from typing import Any

import pytest

from lengthwise import (
    AsyncClient,
    Client,
    InvalidRequest,
    LengthwiseError,
    Message,
    PromptTooLong,
    Tls,
)
from lengthwise.fake import FakeTransport


def refused(prompt: Any, **options: Any) -> LengthwiseError:
    fake = FakeTransport("never sent")
    with Client(transports=[fake]) as client, pytest.raises(InvalidRequest) as caught:
        client.stream(prompt, **options)
    assert fake.requests == []
    return caught.value


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -0.1}, r"temperature: got -0.1, expected a number in \[0, 100\]"),
        ({"temperature": math.nan}, "temperature: got nan"),
        ({"temperature": math.inf}, "temperature: got inf"),
        ({"temperature": 10**400}, "temperature: got 1000"),
        ({"temperature": True}, "temperature: got True"),
        ({"temperature": "hot"}, "temperature: got 'hot'"),
        ({"top_k": -1}, r"top_k: got -1, expected an integer in \[0, "),
        ({"top_k": 1.5}, "top_k: got 1.5"),
        ({"top_p": 0}, r"top_p: got 0, expected a number in \(0, 1\]"),
        ({"top_p": 1.1}, "top_p: got 1.1"),
        ({"min_p": 1.5}, r"min_p: got 1.5, expected a number in \[0, 1\]"),
        (
            {"repetition_penalty": 0.0},
            "repetition_penalty: got 0.0, expected a number in .0.001, 1000.",
        ),
        ({"presence_penalty": 2.5}, r"presence_penalty: got 2.5, expected a number in \[-2, 2\]"),
        ({"frequency_penalty": -3}, "frequency_penalty: got -3"),
        ({"seed": -1}, "seed: got -1"),
        ({"seed": 2**64}, "seed: got 18446744073709551616"),
        ({"min_tokens": -1}, r"min_tokens: got -1, expected an integer in \[0, "),
        ({"min_tokens": 1.5}, "min_tokens: got 1.5"),
        (
            {"logit_bias": {5: -100.5}},
            r"logit_bias\[5\]: got -100.5, expected a number in \[-100, ",
        ),
        ({"logit_bias": {5: "up"}}, r"logit_bias\[5\]: got 'up'"),
        ({"logit_bias": {-1: 1.0}}, "logit_bias: got -1, expected an integer"),
        ({"logit_bias": {"5": 1.0}}, "logit_bias: got '5', expected an integer"),
        ({"logit_bias": [(5, 1.0)]}, "logit_bias: got list, expected a mapping of token ids"),
        ({"logit_bias": dict.fromkeys(range(301), 1)}, "logit_bias: got 301 entries, expected at"),
        ({"max_tokens": 0}, r"max_tokens: got 0, expected an integer in \[1, "),
        ({"max_tokens": True}, "max_tokens: got True"),
        ({"top_logprobs": 21}, r"top_logprobs: got 21, expected an integer in \[0, 20\]"),
        ({"priority": 101}, r"priority: got 101, expected an integer in \[-100, 100\]"),
        ({"priority": -101}, "priority: got -101"),
        ({"tenant": "t" * 129}, "tenant: got 129 characters, expected at most 128"),
        ({"tenant": "a\nb"}, r"tenant: got 'a\\nb', expected printable characters"),
        ({"tenant": 7}, "tenant: got int, expected str"),
        ({"conversation_returns": "yes"}, "conversation_returns: got 'yes', expected True or"),
        ({"stop": ""}, r"stop\[0\]: got 0 characters, expected 1 to 256"),
        ({"stop": ["a", "b" * 257]}, r"stop\[1\]: got 257 characters"),
        ({"stop": ["a"] * 17}, "stop: got 17 strings, expected at most 16"),
        ({"stop": ["\ud800"]}, r"stop\[0\]: got a lone surrogate"),
        ({"stop_token_ids": [1, -1]}, r"stop_token_ids\[1\]: got -1"),
        ({"stop_token_ids": [1] * 257}, "stop_token_ids: got 257, expected at most 256"),
        ({"request_id": ""}, "request_id: got 0 characters, expected 1 to 128"),
        ({"request_id": "r" * 129}, "request_id: got 129 characters"),
        ({"model": "\udfff"}, "model: got a lone surrogate"),
        ({"timeout": -1.0}, "timeout.total: got -1.0, expected seconds above 0"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_an_option_out_of_range_is_named(options: dict[str, Any], message: str) -> None:
    error = refused("hi", **options)
    assert re.match(message, str(error)), str(error)


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        pytest.param("", "prompt: got no text", id="no-text"),
        pytest.param([], "prompt: got an empty list", id="empty-list"),
        pytest.param("a\ud83d", "got a lone surrogate ('\\ud83d') at character 1", id="surrogate"),
        pytest.param(b"hi", "prompt: got bytes, expected str, token ids or Messages", id="bytes"),
        pytest.param(None, "prompt: got NoneType", id="none"),
        pytest.param(
            [{"role": "user", "content": "hi", "name": "Ada"}],
            "prompt[0]: got a mapping of 'role', 'content', 'name', expected 'role' and 'content'",
            id="another field",
        ),
        pytest.param([{"role": "user"}], "got a mapping of 'role', expected", id="no field"),
        pytest.param(
            [{"role": "user", "content": None}], "prompt[0].content: got NoneType", id="no text"
        ),
        pytest.param([1, 2**32], "prompt[1]: got 4294967296", id="too-large-id"),
        pytest.param([1, -2], "prompt[1]: got -2", id="negative-id"),
        pytest.param([1, 2.5], "prompt[1]: got 2.5", id="fraction"),
        pytest.param([1, Message("user", "hi")], "prompt[1]: got Message", id="mixed"),
        pytest.param([Message("user", "hi"), 1], "prompt[1]: got int", id="mixed-too"),
        pytest.param([Message("user", "a")] * 4097, "prompt: got 4097 messages", id="messages"),
        pytest.param([Message("", "hi")], "prompt[0].role: got ''", id="no-role"),
        pytest.param([Message("user", "")], "prompt: got no text", id="no-content"),
        pytest.param([Message("user", "\ud800")], "prompt[0].content: got a lone", id="content"),
    ],
)
def test_a_prompt_that_cannot_be_sent_is_refused(prompt: Any, message: str) -> None:
    assert message in str(refused(prompt))


@pytest.mark.parametrize("messages", ["hi", [1, 2]])
async def test_a_chat_is_a_conversation_and_no_text(messages: Any) -> None:
    expected = r'expected Messages, such as \[Message\("user", "hi"\)\]; generate continues a text'
    with Client() as client, pytest.raises(InvalidRequest, match=expected):
        client.chat(messages)
    async with AsyncClient() as many:
        with pytest.raises(InvalidRequest, match=expected):
            await many.chat(messages)


@pytest.mark.parametrize(
    "prompt",
    [
        pytest.param("é" * (2 << 20) + "!", id="text"),
        pytest.param([Message("user", "a" * (2 << 20))] * 3, id="conversation"),
        pytest.param([1] * ((1 << 20) + 1), id="token-ids"),
    ],
)
def test_a_prompt_beyond_what_servers_accept_is_too_long(prompt: Any) -> None:
    assert isinstance(refused(prompt), PromptTooLong)


def test_an_option_that_does_not_exist_is_a_type_error() -> None:
    options: Any = {"temprature": 1.0, "max_token": 3}
    client = Client(transports=[FakeTransport("never sent")])
    with pytest.raises(TypeError, match="no such option: max_token, temprature"):
        client.stream("hi", **options)


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"temperature": 0, "top_k": 0, "top_p": 1, "min_p": 0}, id="least"),
        pytest.param({"temperature": 100.0, "seed": 2**64 - 1, "top_logprobs": 20}, id="most"),
        pytest.param({"presence_penalty": -2, "frequency_penalty": 2}, id="penalties"),
        pytest.param({"min_tokens": 0, "logit_bias": {}}, id="neutral"),
        pytest.param({"logit_bias": {0: -100, 2**32 - 1: 100.0}}, id="biases"),
        pytest.param({"stop": ["a" * 256] * 16}, id="stops"),
        pytest.param({"priority": -100, "tenant": "é" * 128}, id="tenant"),
        pytest.param({"priority": 100, "conversation_returns": False}, id="priority"),
    ],
)
def test_the_ends_of_a_range_are_accepted(options: Any) -> None:
    options = {"top_logprobs": None, **options}
    fake = FakeTransport([])
    with Client(transports=[fake]) as client:
        assert client.generate("hi", **options).text == ""


@pytest.mark.parametrize(
    ("endpoints", "message"),
    [
        pytest.param([], "endpoints: got none", id="none"),
        pytest.param("", "endpoints: got ''", id="empty"),
        pytest.param("http://router:50051", "expected host:port", id="url"),
    ],
)
def test_an_endpoint_that_cannot_be_one_is_refused(endpoints: Any, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        Client(endpoints)


def test_tls_files_that_cannot_be_read_are_named(tmp_path: Any) -> None:
    with pytest.raises(InvalidRequest, match=r"tls: cannot read .*ca\.pem: No such file"):
        Client("router:50051", tls=Tls(authority=tmp_path / "ca.pem"))
    with pytest.raises(InvalidRequest, match="tls: got one of certificate and private_key"):
        Tls(certificate=tmp_path / "client.pem")

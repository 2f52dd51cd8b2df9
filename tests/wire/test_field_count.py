"""Fields are counted before a message is parsed: what has too many is refused, what a client sends
is not, and what is no message is left to the parser."""

import random

import pytest
from google.protobuf.message import DecodeError

from lengthwise_wire.errors import InvalidRequest, PromptTooLong
from lengthwise_wire.field_count import (
    MAX_FREE_FIELDS,
    MAX_INNER_MESSAGES,
    UNCOUNTED_BYTES,
    check_num_fields,
)
from lengthwise_wire.limits import MAX_MESSAGES, MAX_PROMPT_TOKENS, MAX_TOOLS
from lengthwise_wire.v1 import common_pb2, inference_pb2

Request = inference_pb2.GenerateRequest


def varint(number: int) -> bytes:
    low, high = number & 127, number >> 7
    return bytes([low | 128]) + varint(high) if high else bytes([low])


def field(number: int, body: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(body)) + body


def check(data: bytes) -> None:
    check_num_fields(data, Request)


def conversation(num_messages: int) -> inference_pb2.Prompt:
    turn = inference_pb2.ChatMessage(role="assistant", content="x" * 900)
    return inference_pb2.Prompt(
        conversation=inference_pb2.Conversation(messages=[turn] * num_messages)
    )


def ids(token_ids: list[int]) -> bytes:
    prompt = inference_pb2.Prompt(token_ids=common_pb2.TokenIds(ids=token_ids))
    return Request(prompt=prompt).SerializeToString()


LARGEST = {
    "a conversation": Request(prompt=conversation(MAX_MESSAGES)),
    "calls": Request(
        prompt=inference_pb2.Prompt(
            conversation=inference_pb2.Conversation(
                messages=[
                    inference_pb2.ChatMessage(
                        role="tool",
                        content="x" * 900,
                        tool_calls=[inference_pb2.ToolCall(id="i", name="n", arguments="{}")],
                        tool_call_id="i",
                        name="n",
                    )
                ]
                * MAX_MESSAGES,
                tools=["{}"] * MAX_TOOLS,
            )
        )
    ),
    "token ids": Request(
        prompt=inference_pb2.Prompt(
            token_ids=common_pb2.TokenIds(ids=[300_000] * MAX_PROMPT_TOKENS)
        )
    ),
    "biases": Request(
        sampling=common_pb2.SamplingParams(logit_bias=dict.fromkeys(range(300), 1.0)),
        prompt=inference_pb2.Prompt(text="x" * (4 << 20)),
    ),
}

MANY = b"\x0a\x00" * (4 << 20)
TOO_MANY = {
    "messages": field(3, field(3, MANY)),
    "messages with long tags": field(3, field(3, b"\x8a\x80\x80\x00\x00" * (1 << 20))),
    "conversations": field(3, b"\x1a\x00" * (1 << 20)),
    "prompts": b"\x1a\x00" * (1 << 20),
    "roles of one message": field(3, field(3, field(1, MANY))),
    "stop strings": field(5, MANY),
    "biases": field(4, b"".join(field(10, b"\x08" + varint(each)) for each in range(20_000))),
    "unpacked ids": field(3, field(2, b"\x08\x05" * (1 << 20))),
    "packed ids": field(3, field(2, field(1, b"\x05" * (MAX_PROMPT_TOKENS + 1)))),
    "unknown fields": b"\x78\x05" * (1 << 20),
    "groups": b"\x7b\x7c" * (1 << 20),
}


@pytest.mark.parametrize("message", LARGEST.values(), ids=LARGEST)
def test_the_largest_that_is_accepted_is_not_refused(
    message: inference_pb2.GenerateRequest,
) -> None:
    data = message.SerializeToString()
    assert len(data) > UNCOUNTED_BYTES
    check(data)


@pytest.mark.parametrize("data", TOO_MANY.values(), ids=TOO_MANY)
def test_too_many_fields_are_refused(data: bytes) -> None:
    with pytest.raises(InvalidRequest):
        check(data)


@pytest.mark.parametrize(
    ("extra", "most"),
    [
        pytest.param(b"\x78\x05", MAX_FREE_FIELDS - 1, id="unknown numbers"),
        pytest.param(b"\x1a\x00", MAX_INNER_MESSAGES - 1, id="prompts"),
    ],
)
def test_the_bounds_are_exact(extra: bytes, most: int) -> None:
    head = field(3, field(1, b"a" * UNCOUNTED_BYTES))  # a message, and one field
    check(head + extra * most)
    with pytest.raises(InvalidRequest, match="has more than"):
        check(head + extra * (most + 5))


def test_packed_numbers_are_bounded_exactly() -> None:
    most = UNCOUNTED_BYTES
    for number in (5, 300_000):
        check_num_fields(ids([number] * most), Request, most)
        with pytest.raises(PromptTooLong, match=f"ids: .* at most {most} token ids"):
            check_num_fields(ids([number] * (most + 1)), Request, most)


def test_bytes_that_are_no_message_are_left_to_the_parser() -> None:
    draw = random.Random(1)
    whole = LARGEST["a conversation"].SerializeToString()
    refused = 0
    for _ in range(300):
        data = bytearray(whole[: draw.randrange(UNCOUNTED_BYTES + 1, len(whole) // 16)])
        for _ in range(draw.randrange(3)):
            data[draw.randrange(len(data))] = draw.randrange(256)
        try:
            check(bytes(data))
        except InvalidRequest:
            continue
        try:
            Request.FromString(bytes(data))
        except DecodeError:
            refused += 1
    assert refused
    check(b"\xff" * (2 * UNCOUNTED_BYTES))
    check(field(3, b"")[:-1] + varint(1 << 40) + b"\x00" * UNCOUNTED_BYTES)

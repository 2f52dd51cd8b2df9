"""Constraints as the SDK takes them, and what it makes of the answer."""

import json
from dataclasses import replace
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError, field_validator

from lengthwise import AsyncClient, Client, InvalidRequest
from lengthwise._wire.responses import parsed
from lengthwise.fake import AsyncFakeTransport, FakeTransport


class Invoice(BaseModel):
    customer: str
    total: int

    @field_validator("total")
    @classmethod
    def _is_paid(cls, total: int) -> int:
        if total < 0:
            raise ValueError("a schema does not say so")
        return total


TEXT = '{"customer": "Ada", "total": 12}'
MESSAGES = [{"role": "user", "content": "An invoice, please."}]


async def test_a_class_is_sent_as_its_schema_and_the_answer_is_parsed() -> None:
    fake = FakeTransport(TEXT)
    with Client(transports=[fake]) as client:
        completion = client.chat(MESSAGES, response_format=Invoice, max_tokens=64)
    assert completion.parsed == Invoice(customer="Ada", total=12)
    sent = fake.requests[0]
    assert json.loads(sent.constraint.json_schema) == Invoice.model_json_schema()
    (message,) = sent.prompt.conversation.messages
    assert (message.role, message.content) == ("user", "An invoice, please.")
    async with AsyncClient(transports=[AsyncFakeTransport(TEXT)]) as many:
        assert (await many.generate("An invoice: ", response_format=Invoice)).parsed.total == 12


def test_what_ended_too_early_is_not_parsed() -> None:
    with Client(transports=[FakeTransport(TEXT[:9])]) as client:
        cut = replace(client.generate("An invoice: "), finish_reason="length")
    assert parsed(cut, {"response_format": Invoice}) == cut
    assert cut.parsed is None


def test_checks_that_no_schema_says_are_the_callers_own() -> None:
    fake = FakeTransport('{"customer": "Ada", "total": -1}')
    with Client(transports=[fake]) as client, pytest.raises(ValidationError, match="does not say"):
        client.generate("An invoice: ", response_format=Invoice)


@pytest.mark.parametrize(
    ("options", "kind", "value"),
    [
        ({"json_schema": '{"type": "object"}'}, "json_schema", '{"type": "object"}'),
        ({"json_schema": {"type": "object"}}, "json_schema", '{"type": "object"}'),
        ({"regex": "a+"}, "regex", "a+"),
        ({"lark": 'start: "a"'}, "lark", 'start: "a"'),
    ],
)
def test_a_constraint_is_sent(options: Any, kind: str, value: str) -> None:
    fake = FakeTransport("a")
    with Client(transports=[fake]) as client:
        assert client.generate("hi", **options).parsed is None
    constraint = fake.requests[0].constraint
    assert (constraint.WhichOneof("kind"), getattr(constraint, kind)) == (kind, value)


def test_choices_are_sent() -> None:
    fake = FakeTransport("a")
    with Client(transports=[fake]) as client:
        client.generate("hi", choice=("yes", "no"))
    assert list(fake.requests[0].constraint.choice.texts) == ["yes", "no"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"regex": "a", "choice": ["a"]}, "constraint: got regex and choice, expected one of them"),
        ({"regex": ""}, "constraint.regex: got an empty text"),
        ({"regex": 5}, "regex: got int, expected str"),
        ({"regex": "\ud800"}, "regex: got a lone surrogate"),
        ({"regex": "a" * 70_000}, "constraint.regex: got 70004 bytes, expected at most 65536"),
        ({"json_schema": {"a": float("nan")}}, "json_schema: got what is no JSON"),
        ({"json_schema": {"a": object()}}, "json_schema: got what is no JSON"),
        ({"choice": "yes"}, "choice: got str, expected a list of texts"),
        ({"choice": []}, "constraint.choice: got 0 texts"),
        ({"choice": ["a", 5]}, "choice[1]: got int, expected str"),
        ({"response_format": dict}, "response_format: got <class 'dict'>, expected a pydantic"),
        ({"response_format": {"type": "json_object"}}, "expected a pydantic model; json_schema"),
    ],
)
def test_what_cannot_be_one_is_refused_before_anything_is_sent(options: Any, message: str) -> None:
    fake = FakeTransport("a")
    with Client(transports=[fake]) as client, pytest.raises(InvalidRequest) as refused:
        client.generate("hi", **options)
    assert message in str(refused.value)
    assert not fake.requests

"""Several choices of one request: however streams are cut, each is the one it was to be."""

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from lengthwise import (
    AsyncClient,
    Client,
    InternalError,
    InvalidRequest,
    NotSupported,
    NoWorkerAvailable,
    Retry,
    Timeout,
)
from lengthwise._retries import Retries, Rotation
from lengthwise._session import Session, join
from lengthwise.fake import FAKE_SEED, AsyncFakeTransport, FakeTransport
from lengthwise.types import Chunk
from lengthwise_wire.v1 import common_pb2
from lengthwise_wire.v1 import inference_pb2 as pb

SEED = 2**64 - 1
LENGTHS = (3, 0, 5)
"""Tokens of each choice; one ends with none that is shown."""


def new_session(n: int = len(LENGTHS)) -> Session:
    retries = Retries(
        retry=Retry(attempts=100),
        timeout=Timeout(),
        rotation=Rotation(2),
        now=0.0,
        draw=lambda: 0.5,
    )
    return Session(pb.GenerateRequest(request_id="r", n=n), retries)


def messages(request: pb.GenerateRequest, choice: int) -> Iterator[pb.GenerateResponse]:
    """What a router sends of a choice, one token at a time."""
    resume = request.resume
    received = list(resume.further_choices[choice - 1].ids if choice else resume.token_ids)
    assert received == [100 * choice + i for i in range(len(received))]
    name = f"r-{choice}" if choice else "r"
    yield pb.GenerateResponse(request_id=name, seed=(SEED + choice) % 2**64, choice=choice)
    for index in range(len(received), LENGTHS[choice]):
        yield pb.GenerateResponse(
            index=index, token_ids=[100 * choice + index], text="x", choice=choice
        )
    yield pb.GenerateResponse(
        choice=choice,
        index=LENGTHS[choice],
        finish_reason=common_pb2.FINISH_REASON_STOP,
        usage=pb.Usage(prompt_tokens=0 if choice else 7, output_tokens=LENGTHS[choice]),
    )


@given(st.lists(st.lists(st.integers(0, 2), max_size=12), max_size=6), st.data())
def test_no_cut_changes_any_choice(attempts: list[list[int]], data: st.DataObject) -> None:
    session = new_session()
    chunks: list[Chunk | None] = []
    for order in [*attempts, None]:
        _, request = session.begin(0.0)
        assert order is None or len(request.resume.further_choices) == 2
        streams = [messages(request, choice) for choice in range(3)]
        for choice in order if order is not None else [0, 1, 2] * 8:
            response = next(streams[choice], None)
            if response is not None:
                chunks.append(session.receive(response))
        if session.finished:
            break
        session.fail(NoWorkerAvailable("lost"), 0.0)
    session.ended()
    completion = join([chunk for chunk in chunks if chunk])
    assert len(completion.choices) == 3
    for choice, each in enumerate(completion.choices):
        assert each.token_ids == tuple(100 * choice + i for i in range(LENGTHS[choice]))
        assert each.text == "x" * LENGTHS[choice]
        assert each.seed == (SEED + choice) % 2**64
        assert each.request_id == (f"r-{choice}" if choice else "r")
    assert sum(each.usage.prompt_tokens for each in completion.choices) == 7


def test_a_router_that_knows_no_choices_is_too_old() -> None:
    session = new_session()
    _, request = session.begin(0.0)
    for response in messages(request, 0):
        session.receive(response)
    with pytest.raises(NotSupported, match="upgrade it"):
        session.ended()


def test_a_choice_that_was_not_asked_for_is_an_error() -> None:
    session = new_session(2)
    session.begin(0.0)
    with pytest.raises(InternalError, match="sent choice 2, expected 2 choices"):
        session.receive(pb.GenerateResponse(choice=2, token_ids=[1]))


def test_the_completion_has_all_choices() -> None:
    fake = FakeTransport(["Lon", NoWorkerAvailable("lost")], "London.")
    with Client(transports=[fake]) as client:
        completion = client.generate("hi", n=3, seed=5)
    assert [each.text for each in completion.choices] == ["London."] * 3
    assert [each.seed for each in completion.choices] == [5, 6, 7]
    assert completion.choices[0] is completion
    assert list(fake.requests[1].resume.token_ids) == list(map(ord, "Lon"))
    assert [each.usage.prompt_tokens for each in completion.choices] == [2, 0, 0]


async def test_the_asynchronous_client_has_them_too() -> None:
    async with AsyncClient(transports=[AsyncFakeTransport("a", "b")]) as client:
        completion = await client.chat([{"role": "user", "content": "hi"}], n=2)
        assert [(each.text, each.seed) for each in completion.choices] == [
            ("a", FAKE_SEED), ("a", FAKE_SEED + 1),
        ]  # fmt: skip
        chunks = [chunk async for chunk in client.stream("hi", n=2)]
    assert [chunk.choice for chunk in chunks] == [0, 0, 1, 1]


class Answer(BaseModel):
    number: int


def test_each_choice_is_parsed() -> None:
    with Client(transports=[FakeTransport('{"number": 3}')]) as client:
        completion = client.generate("hi", n=2, response_format=Answer)
    assert [each.parsed for each in completion.choices] == [Answer(number=3)] * 2


@pytest.mark.parametrize("n", [0, 129, -1, 2.0, "2", True])
def test_a_wrong_number_of_choices_is_refused(n: Any) -> None:
    with (
        Client(transports=[FakeTransport("a")]) as client,
        pytest.raises(InvalidRequest, match="n: got"),
    ):
        client.generate("hi", n=n)

"""The fakes keep the promises of the real thing, so that users' tests mean something."""

import time

import pytest

from lengthwise import (
    AsyncClient,
    Client,
    Message,
    ModelNotFound,
    NoWorkerAvailable,
    RequestNotFound,
    Timeout,
)
from lengthwise.fake import FAKE_SEED, AsyncFakeTransport, FakeTransport


def test_a_text_is_a_reply() -> None:
    fake = FakeTransport("Paris.")
    with Client(transports=[fake]) as client:
        completion = client.generate("Capital of France?", max_tokens=8)
    assert completion.text == "Paris."
    assert completion.token_ids == tuple(map(ord, "Paris."))
    assert completion.usage.prompt_tokens == len("Capital of France?")
    assert completion.usage.output_tokens == 6
    assert completion.seed == FAKE_SEED
    assert fake.requests[0].max_tokens == 8


def test_an_error_is_a_reply() -> None:
    client = Client(transports=[FakeTransport(ModelNotFound("no such model"))])
    with pytest.raises(ModelNotFound):
        client.generate("hi")


def test_a_lost_attempt_goes_on_with_the_next_reply() -> None:
    fake = FakeTransport(["Lon", NoWorkerAvailable("lost")], ["Lond", "on."])
    with Client(transports=[fake]) as client:
        assert [chunk.text for chunk in client.stream("hi")] == ["Lon", "d", "on.", ""]
    assert list(fake.requests[1].resume.token_ids) == list(map(ord, "Lon"))
    assert not fake.requests[0].HasField("resume"), "a recorded request changed afterwards"


@pytest.mark.slow
def test_replies_come_with_delays_and_silence() -> None:
    fake = FakeTransport(["a", 0.1, "b", 30.0, "never"], "abc")
    with Client(transports=[fake], timeout=Timeout(silence=0.3)) as client:
        started = time.monotonic()
        assert client.generate("hi").text == "abc"
        assert 0.4 <= time.monotonic() - started < 15.0


def test_two_fakes_are_two_endpoints() -> None:
    one, other = FakeTransport(["ab", NoWorkerAvailable("lost")]), FakeTransport("abc")
    with Client(transports=[one, other]) as client:
        assert client.generate("hi").text == "abc"
    assert len(one.requests) == len(other.requests) == 1


def test_a_script_that_is_used_up_says_so() -> None:
    client = Client(transports=[FakeTransport()])
    with pytest.raises(LookupError, match="all 0 replies"):
        client.generate("hi")


def test_the_other_verbs_answer_too() -> None:
    with Client(transports=[FakeTransport("hello")]) as client:
        assert client.tokenize("ab") == [97, 98]
        assert client.tokenize([Message("user", "a"), Message("user", "b")]) == [97, 98]
        assert client.tokenize([5, 6]) == [5, 6]
        assert client.model().name == "fake"
        assert client.chat([Message("user", "hi")]).text == "hello"


def test_a_request_of_the_fake_can_be_explained() -> None:
    with Client(transports=[FakeTransport("a"), FakeTransport("b")]) as client:
        completion = client.generate("hi", priority=3)
        life = client.explain(completion.request_id)
        with pytest.raises(RequestNotFound, match="got 'other', expected one of the 0 requests"):
            client.explain("other")
    assert life.request_id == completion.request_id
    assert (life.prompt_tokens, life.priority, life.end) == (2, 3, None)


async def test_the_async_fake_is_the_same() -> None:
    fake = AsyncFakeTransport(["a", 0.05, NoWorkerAvailable("lost")], "abc")
    async with AsyncClient(transports=[fake]) as client:
        assert [chunk.text async for chunk in client.stream("hi")] == ["a", "bc", ""]
        assert await client.tokenize("ab") == [97, 98]
        assert (await client.model()).name == "fake"
        request_id = fake.requests[0].request_id
        assert (await client.explain(request_id)).request_id == request_id
    assert len(fake.requests) == 2

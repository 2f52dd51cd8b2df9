"""The player of conversations, against a stand-in for the deployment."""

import pytest
from scheduling.player import Player
from scheduling.traffic import Conversation, Turn

from lengthwise import AsyncClient, LengthwiseError, NoWorkerAvailable, Retry
from lengthwise.fake import AsyncFakeTransport

TURNS = tuple(Turn(user_tokens=tokens, reply_tokens=4, think_seconds=0.0) for tokens in (300, 5, 7))
CONVERSATION = Conversation(seed=1, start_at=0.0, turns=TURNS)


def player(fake: AsyncFakeTransport, stop_at: float = 30.0) -> Player:
    client = AsyncClient(transports=[fake], retry=Retry(attempts=1))
    return Player(client, vocab_size=256, stop_at=stop_at)


async def test_each_prompt_is_all_that_was_said_and_answered_and_what_is_new() -> None:
    fake = AsyncFakeTransport("abcd", "efgh", "ijkl")
    samples = await player(fake).open_loop([CONVERSATION])
    prompts = [list(request.prompt.token_ids.ids) for request in fake.requests]
    said = [CONVERSATION.says(index, 256) for index in range(3)]
    first = said[0]
    second = [*first, *map(ord, "abcd"), *said[1]]
    assert prompts == [first, second, [*second, *map(ord, "efgh"), *said[2]]]
    assert [s.prompt_tokens for s in samples] == [300, 309, 320]
    assert [s.new_tokens for s in samples] == [300, 9, 11]
    assert [s.length for s in samples] == ["long", "short", "short"]
    assert all(s.due_at <= s.first_at <= s.ended_at for s in samples)


async def test_a_late_start_counts_against_the_time_to_the_first_token() -> None:
    fake = AsyncFakeTransport([0.2, "abcd"])
    (sample,) = await player(fake).open_loop([Conversation(seed=1, start_at=0.1, turns=TURNS[:1])])
    assert sample.due_at == 0.1
    assert sample.ttft_seconds >= 0.2


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        pytest.param("abc", RuntimeError, id="too few tokens"),
        pytest.param(NoWorkerAvailable("down"), LengthwiseError, id="refused"),
    ],
)
async def test_a_failed_request_ends_the_play(
    reply: str | LengthwiseError, error: type[Exception]
) -> None:
    fake = AsyncFakeTransport("abcd", reply)
    with pytest.raises(ExceptionGroup) as caught:
        await player(fake).open_loop([CONVERSATION])
    assert caught.group_contains(error)

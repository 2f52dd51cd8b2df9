"""The state machine of a generation, alone: however a stream is cut, the completion is the same."""

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lengthwise import Completion, NoWorkerAvailable, Retry, Timeout
from lengthwise._retries import Retries, Rotation
from lengthwise._session import Session, join
from lengthwise.types import Chunk
from lengthwise_wire.v1 import common_pb2, inference_pb2

NUM_TOKENS = 12
TEXTS = ("a", "b", "", "", "cde", "f", "", "g", "h", "i", "", "jk")
"""Text that becomes certain with each token; it lags behind some."""


@dataclass(frozen=True, slots=True)
class Piece:
    """What a router sends next: so many tokens, or nothing, after which it may be lost."""

    num_tokens: int
    num_repeated: int
    lost: bool


pieces = st.builds(
    Piece,
    num_tokens=st.integers(0, 4),
    num_repeated=st.integers(0, 3),
    lost=st.booleans(),
)


def new_session() -> Session:
    retries = Retries(
        retry=Retry(attempts=100),
        timeout=Timeout(),
        rotation=Rotation(2),
        now=0.0,
        draw=lambda: 0.5,
    )
    return Session(inference_pb2.GenerateRequest(request_id="r"), retries)


def message(first: int, end: int) -> inference_pb2.GenerateResponse:
    return inference_pb2.GenerateResponse(
        index=first, token_ids=range(500 + first, 500 + end), text="".join(TEXTS[first:end])
    )


def play(plan: list[Piece]) -> Completion:
    """A router that resumes as it should, cut as planned; then one that is not cut."""
    session = new_session()
    chunks: list[Chunk | None] = []
    remaining = iter([*plan, *[Piece(num_tokens=NUM_TOKENS, num_repeated=0, lost=False)] * 2])
    while not session.finished:
        _, request = session.begin(0.0)
        position = len(request.resume.token_ids)
        assert list(request.resume.token_ids) == list(range(500, 500 + position))
        chunks.append(session.receive(inference_pb2.GenerateResponse(request_id="r", seed=3)))
        for piece in remaining:
            end = min(position + piece.num_tokens, NUM_TOKENS)
            repeated = max(0, position - piece.num_repeated)
            chunks.append(session.receive(message(repeated, position)))
            chunks.append(session.receive(message(position, end)))
            position = end
            if piece.lost:
                assert session.fail(NoWorkerAvailable("lost"), 0.0) >= 0.0
                break
            if position == NUM_TOKENS:
                finish = common_pb2.FINISH_REASON_LENGTH
                chunks.append(session.receive(inference_pb2.GenerateResponse(finish_reason=finish)))
                break
    session.ended()
    return join([chunk for chunk in chunks if chunk])


@given(st.lists(pieces, max_size=12))
def test_no_cut_changes_the_completion(plan: list[Piece]) -> None:
    completion = play(plan)
    assert completion.text == "".join(TEXTS)
    assert completion.token_ids == tuple(range(500, 500 + NUM_TOKENS))
    assert [token.index for token in completion.tokens] == list(range(NUM_TOKENS))
    assert completion.seed == 3


def test_the_seed_in_use_is_asked_for_again_even_before_the_first_token() -> None:
    session = new_session()
    session.begin(0.0)
    session.receive(inference_pb2.GenerateResponse(seed=8))
    session.fail(NoWorkerAvailable("lost"), 0.0)
    _, request = session.begin(0.0)
    assert request.sampling.seed == 8
    assert not request.HasField("resume")


def test_a_failure_after_the_last_message_takes_nothing_away() -> None:
    session = new_session()
    session.begin(0.0)
    session.receive(message(0, 2))
    session.receive(inference_pb2.GenerateResponse(finish_reason=common_pb2.FINISH_REASON_STOP))
    assert session.fail(NoWorkerAvailable("gone"), 0.0) == 0.0
    assert session.finished


@pytest.mark.parametrize("wrong", [0, 499, 501], ids=["zero", "below", "next"])
def test_a_repeated_token_must_be_the_same(wrong: int) -> None:
    session = new_session()
    session.begin(0.0)
    session.receive(message(0, 2))
    repeated = inference_pb2.GenerateResponse(index=0, token_ids=[wrong], text="a")
    with pytest.raises(Exception, match="sent tokens 0 to 0, expected token 2"):
        session.receive(repeated)

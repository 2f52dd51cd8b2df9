"""Messages survive the wire however the bytes are cut, and foreign bytes are refused."""

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lengthwise_engine.kv.cache import SharedKV
from lengthwise_engine.kv.layout import KVLayout
from lengthwise_engine.kv.shards import KVShards
from lengthwise_engine.transfer.base import LinkDown, Piece, Received
from lengthwise_engine.transfer.frames import (
    Discard,
    FrameError,
    FrameReader,
    Ready,
    Receive,
    Send,
    Setup,
    frame,
    message,
)

PIECE = Piece(first_layer=1, num_layers=2, block_ids=(5, 3, 4))
MESSAGES = (
    Setup(
        shards=KVShards(
            layout=KVLayout(
                num_layers=1, num_kv_heads=2, head_dim=3, block_size=4, dtype="float32"
            ),
            num_blocks=7,
            device_type="cpu",
            shares=(
                SharedKV(num_bytes=672, file_descriptor=3),
                SharedKV(num_bytes=672, file_descriptor=5),
            ),
        ),
        listen_file_descriptor=4,
        backend="gloo",
        stall_seconds=0.5,
        connect_seconds=1.5,
        shared_memory=True,
    ),
    Ready(),
    Send(link="a", sequence=0, piece=PIECE),
    Receive(link="b", sequence=1, key="key", piece=PIECE, num_bytes=2**40),
    Receive(link="b", sequence=2, key="", piece=None, num_bytes=1),
    Discard(key="naïve"),
    LinkDown(link="c", reason="line\nbreak"),
    Received(link="d", sequence=3, key="k", checksum=2**64 - 1),
)

BAD = json.loads(frame(MESSAGES[0])[4:])["shards"] | {"num_blocks": 8}


@given(cuts=st.lists(st.integers(0, 2000)))
def test_messages_survive_any_cut_of_the_stream(cuts: list[int]) -> None:
    stream = b"".join(frame(each) for each in MESSAGES)
    bounds = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    reader = FrameReader()
    read = [
        message(value)
        for start, end in pairwise(bounds)
        for value in reader.feed(stream[start:end])
    ]
    assert read == list(MESSAGES)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"GET / HTTP/1.1\r\n", id="another protocol"),
        pytest.param(b"\0\0\0\x03{]}", id="no JSON"),
        pytest.param(b"\0\0\0\x02\xff\xfe", id="no text"),
    ],
)
def test_foreign_bytes_are_an_error(data: bytes) -> None:
    with pytest.raises(FrameError):
        list(FrameReader().feed(data))


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(1, id="a number"),
        pytest.param({"message": "Unknown"}, id="unknown"),
        pytest.param({"message": "Discard"}, id="field missing"),
        pytest.param({"message": "Discard", "key": "k", "more": 1}, id="field too many"),
        pytest.param({**json.loads(frame(MESSAGES[0])[4:]), "shards": BAD}, id="sizes"),
    ],
)
def test_what_is_no_message_is_an_error(value: object) -> None:
    with pytest.raises(FrameError, match="expected a transfer message"):
        message(value)

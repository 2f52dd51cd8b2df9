"""Messages survive the wire however the bytes are cut, and foreign bytes are refused."""

import json
import struct
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lengthwise_engine.kv.cache import SharedKV
from lengthwise_engine.kv.layout import KVLayout
from lengthwise_engine.kv.shards import KVShards
from lengthwise_engine.transfer.base import LinkDown, Piece, Received
from lengthwise_engine.transfer.frames import FrameError, FrameReader, frame
from lengthwise_engine.transfer.messages import (
    REPORT,
    SETUP_OR_COMMAND,
    Discard,
    Ready,
    Receive,
    Send,
    Setup,
)

PIECE = Piece(first_layer=1, num_layers=2, block_ids=(5, 3, 4))
COMMANDS = (
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
    Send(link="a", sequence=0, piece=PIECE),
    Receive(link="b", sequence=1, key="key", piece=PIECE, num_bytes=2**40),
    Receive(link="b", sequence=2, key="", piece=None, num_bytes=1),
    Discard(key="naïve"),
)
REPORTS = (
    Ready(),
    LinkDown(link="c", reason="line\nbreak"),
    Received(link="d", sequence=3, key="k", checksum=2**64 - 1),
)

BAD = json.loads(frame(COMMANDS[0])[4:])["shards"] | {"num_blocks": 8}
DEEP = b"[" * 100_000


@given(cuts=st.lists(st.integers(0, 2000)))
def test_messages_survive_any_cut_of_the_stream(cuts: list[int]) -> None:
    readers: list[tuple[Sequence[object], FrameReader[Any]]] = [
        (COMMANDS, FrameReader[Any](SETUP_OR_COMMAND)),
        (REPORTS, FrameReader[Any](REPORT)),
    ]
    for messages, reader in readers:
        stream = b"".join(frame(each) for each in messages)
        bounds = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
        pieces = (stream[start:end] for start, end in pairwise(bounds))
        assert [value for data in pieces for value in reader.feed(data)] == list(messages)


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"{]}", id="no JSON"),
        pytest.param(b"\xff\xfe", id="no text"),
        pytest.param(b"1", id="a number"),
        pytest.param(b"1" * 5000, id="a long number"),
        pytest.param(b'{"key":"k"}', id="no tag"),
        pytest.param(b'{"message":"Unknown"}', id="unknown"),
        pytest.param(frame(Ready())[4:], id="a message of another socket"),
        pytest.param(b'{"message":"Discard"}', id="field missing"),
        pytest.param(b'{"message":"Discard","key":1}', id="field of another type"),
        pytest.param(b'{"message":"Discard","key":"k","more":1}', id="field too many"),
        pytest.param(
            json.dumps({**json.loads(frame(COMMANDS[0])[4:]), "shards": BAD}).encode(), id="sizes"
        ),
        pytest.param(DEEP, id="nested deeply"),
        pytest.param(b'{"more":' + DEEP, id="nested deeply before the tag"),
        pytest.param(b'{"message":"Send","piece":{"more":' + DEEP, id="nested deeply in a piece"),
    ],
)
def test_what_is_no_message_is_an_error(body: bytes) -> None:
    with pytest.raises(FrameError, match="unexpected frame"):
        list(FrameReader(SETUP_OR_COMMAND).feed(struct.pack("!I", len(body)) + body))


@pytest.mark.parametrize("data", [b"GET / HTTP/1.1\r\n", b"\0\0\4\1"], ids=["http", "long"])
def test_a_frame_that_is_too_long_is_refused_before_it_is_read(data: bytes) -> None:
    with pytest.raises(FrameError, match="expected at most 1024"):
        list(FrameReader(REPORT, 1024).feed(data))

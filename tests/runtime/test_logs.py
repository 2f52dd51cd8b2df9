"""Whatever callers, peers and files are called, a log has one line for an event."""

import io
import json
import logging
import re
from collections.abc import Iterator
from datetime import datetime

import pytest

from lengthwise_runtime.logs import MAX_LINE_CHARACTERS, JsonFormatter, LineFormatter, printable

EVENT = re.compile(r"\d\d:\d\d:\d\d\.\d\d\d [A-Z]+ router ")

FORGED = (
    "x\n23:59:59.000 CRITICAL router forged",
    "x\r23:59:59.000 CRITICAL router forged",
    "x\x0b23:59:59.000 CRITICAL router forged",
    "x\x85forged",
    "x\u2028forged",
    "\x1b[2J\x1b]0;forged\x07",
    "\u202egnp.exe",
    "a\x00b",
)


@pytest.fixture
def stream() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def log(stream: io.StringIO) -> Iterator[logging.Logger]:
    handler = logging.StreamHandler(stream)
    handler.setFormatter(LineFormatter("router"))
    logger = logging.getLogger("test_logs")
    logger.propagate = False
    logger.addHandler(handler)
    yield logger
    logger.removeHandler(handler)


@pytest.mark.parametrize("text", FORGED)
def test_no_word_of_others_ends_a_line(log: logging.Logger, stream: io.StringIO, text: str) -> None:
    log.warning("worker %s is lost", text)
    log.warning("an attempt failed", extra={"request_id": text})
    try:
        raise ValueError(text)
    except ValueError:
        log.exception("unexpected: %s", text)
    written = stream.getvalue()
    assert written.replace("\n", "").isprintable()
    events = [line for line in written.split("\n")[:-1] if not line.startswith("    | ")]
    assert len(events) == 3
    assert all(EVENT.match(line) for line in events)


def test_a_lone_surrogate_can_be_written() -> None:
    assert printable("a name of a file: \udcff") == "a name of a file: \\udcff"


def test_a_line_ends(log: logging.Logger, stream: io.StringIO) -> None:
    log.warning("worker %s is lost", "w" * 1_000_000)
    assert len(stream.getvalue()) == MAX_LINE_CHARACTERS + 1


def test_a_plain_line_stays_as_it_is(log: logging.Logger, stream: io.StringIO) -> None:
    log.warning("größer als «%s»: 1 → 2", "名前", extra={"request_id": "r1"})
    assert stream.getvalue().endswith(" WARNING router größer als «名前»: 1 → 2 request_id=r1\n")


@pytest.mark.parametrize("words", FORGED)
def test_a_line_of_json_is_an_object_with_the_words_as_they_are(
    log: logging.Logger, stream: io.StringIO, words: str
) -> None:
    log.handlers[0].setFormatter(JsonFormatter("router"))
    try:
        raise ValueError(words)
    except ValueError:
        log.exception("lost %s", words, extra={"request_id": words, "request": {"tokens": 3}})
    (line,) = stream.getvalue().splitlines()
    assert line.isascii()
    event = json.loads(line)
    assert event["message"] == f"lost {words}"
    assert event["request_id"] == words
    assert event["request"] == {"tokens": 3}
    assert (event["process"], event["level"]) == ("router", "ERROR")
    assert event["logger"] == "test_logs"
    assert datetime.fromisoformat(event["time"]).tzinfo is not None
    assert "ValueError" in event["exc_info"]


def test_a_line_of_json_ends_somewhere(log: logging.Logger, stream: io.StringIO) -> None:
    log.handlers[0].setFormatter(JsonFormatter("router"))
    log.error("x" * 1_000_000)
    assert json.loads(stream.getvalue())["message"] == "x" * MAX_LINE_CHARACTERS

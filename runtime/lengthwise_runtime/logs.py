"""One line per event on stderr, the same shape in every process: time, level, process, message, and
the request's id where there is one; as text or as a JSON object. Prompts, tokens and secrets are
never logged.

Callers, peers and files have words in these lines. What would end a line or command a terminal is
escaped, and a line ends somewhere, whatever they are.
"""

import logging
import sys
from typing import Any, Literal

from pythonjsonlogger import json

MAX_LINE_CHARACTERS = 8192

_INDENT = "    | "
"""Of the lines of a traceback, so that none looks like an event of its own."""


class LineFormatter(logging.Formatter):
    """Of all handlers of a process."""

    def __init__(self, process: str) -> None:
        super().__init__(f"%(asctime)s.%(msecs)03d %(levelname)s {process} %(message)s", "%H:%M:%S")

    def formatMessage(self, record: logging.LogRecord) -> str:
        text = super().formatMessage(record)
        request_id = getattr(record, "request_id", None)
        return printable(f"{text} request_id={request_id}" if request_id else text)

    def formatException(self, ei: Any) -> str:
        lines = super().formatException(ei).split("\n")
        return "\n".join(_INDENT + printable(line) for line in lines)


def printable(text: str) -> str:
    """One line without control characters, of at most MAX_LINE_CHARACTERS."""
    if len(text) > MAX_LINE_CHARACTERS:
        text = f"{text[: MAX_LINE_CHARACTERS - 1]}…"
    if text.isprintable():
        return text
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode() for each in text
    )


class JsonFormatter(json.JsonFormatter):
    """Of all handlers of a process whose lines programs read. JSON escapes what text may not hold;
    what a record carries beside its message, such as `request_id`, are keys of their own."""

    def __init__(self, process: str) -> None:
        super().__init__(
            "{levelname}{name}{message}",
            style="{",
            rename_fields={"levelname": "level", "name": "logger"},
            static_fields={"process": process},
            timestamp="time",
        )

    def process_log_record(self, log_data: dict[str, Any]) -> dict[str, Any]:
        for key in ("message", "exc_info"):
            if key in log_data:
                log_data[key] = log_data[key][:MAX_LINE_CHARACTERS]
        return log_data


LogFormat = Literal["text", "json"]


def configure_logging(process: str, level: str, log_format: LogFormat = "text") -> None:
    """Sends the root logger to stderr. `process` names the role in each line."""
    handler = logging.StreamHandler(sys.stderr)
    formatter = JsonFormatter if log_format == "json" else LineFormatter
    handler.setFormatter(formatter(process))
    logging.basicConfig(level=level, handlers=[handler], force=True)

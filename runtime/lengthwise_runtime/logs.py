"""One line per event on stderr, the same shape in every process: time, level, process, message, and
the request's id where there is one. Prompts, tokens and secrets are never logged."""

import logging
import sys


class _RequestFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        request_id = getattr(record, "request_id", None)
        return f"{text} request_id={request_id}" if request_id else text


def configure_logging(process: str, level: str) -> None:
    """Sends the root logger to stderr. `process` names the role in each line."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        _RequestFormatter(
            f"%(asctime)s.%(msecs)03d %(levelname)s {process} %(message)s", "%H:%M:%S"
        )
    )
    logging.basicConfig(level=level, handlers=[handler], force=True)

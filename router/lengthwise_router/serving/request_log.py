"""What is told of each request that has ended, in one line of the log and, where it is traced, in
spans: whose it was, how long it was, where it went, what that took, and how it ended. Never its
text, its tokens or its salt."""

import logging
import time

from lengthwise_router.config import RequestLogLevel
from lengthwise_router.serving.records import RequestRecord

logger = logging.getLogger(__name__)


class RequestLog:
    """Writes the lines at one level, or none."""

    def __init__(self, level: RequestLogLevel) -> None:
        self._level = None if level == "OFF" else logging.getLevelNamesMapping()[level]

    def ended(self, record: RequestRecord) -> None:
        if self._level is None or not logger.isEnabledFor(self._level):
            return
        facts = _facts(record)
        text = " ".join(f"{name}={value}" for name, value in facts.items())
        logger.log(
            self._level, "request ended: %s", text,
            extra={"request_id": record.request_id, "request": facts},
        )  # fmt: skip


def end_span(record: RequestRecord) -> None:
    """The request's span, with one below it for each phase."""
    span, record.span = record.span, None
    if span is None:
        return
    for phase, attempt in record.take_phases():
        names = ("prefill_worker", "decode_worker") if attempt is not None else ()
        workers = {name: getattr(attempt, name) for name in names}
        span.child(phase.name, phase.began_at, phase.ended_at, workers, phase.error)
    facts = _facts(record)
    code = str(facts["code"])
    facts["request_id"] = record.request_id
    span.end(time.monotonic(), facts, "" if code == "OK" else code)


def _facts(record: RequestRecord) -> dict[str, str | int | float]:
    """By the names that the protocol gives them; seconds to the millisecond."""
    message = record.explanation()
    end, attempts = message.end, message.attempts
    last = attempts[-1] if attempts else None
    timings = end.timings
    facts: dict[str, str | int | float] = {
        "code": end.code,
        "model": message.model,
        "tenant": record.tenant,
        "user": record.user,
        "length_class": message.length_class,
        "prompt_tokens": message.prompt_tokens,
        "cached_prompt_tokens": end.cached_prompt_tokens,
        "output_tokens": message.output_tokens,
        "rule": record.rule,
        "prefill_worker": last.prefill_worker if last else "",
        "decode_worker": last.decode_worker if last else "",
        "retries": timings.retries,
        "preemptions": end.preemptions,
    }
    phases = {
        "admission_seconds": message.admission_seconds,
        "reserve_seconds": timings.reserve_seconds,
        "queue_seconds": timings.queue_seconds,
        "prefill_seconds": timings.prefill_seconds,
        "time_to_first_token_seconds": timings.time_to_first_token_seconds,
        "time_per_output_token_seconds": timings.time_per_output_token_seconds,
        "total_seconds": timings.total_seconds,
    }
    facts |= {name: round(seconds, 4) for name, seconds in phases.items()}
    return {name: value for name, value in facts.items() if value != ""}

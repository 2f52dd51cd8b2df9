"""Where the time of a request went, as bars one under the other."""

from collections.abc import Iterator
from dataclasses import dataclass

from rich.text import Text

from lengthwise.explanation import Explanation
from lengthwise.types import Timings

NAME_WIDTH = 12
SECONDS_WIDTH = 12
LEAST_WIDTH = 10
"""Of the bars."""
MOST_WIDTH = 100


@dataclass(frozen=True, slots=True)
class Span:
    """A phase, in seconds after the request's arrival."""

    name: str
    begin: float
    end: float


def spans_of(explained: Explanation) -> list[Span]:
    """The phases of the last attempt up to the first token, one after the other, and then what is
    left of the transfer, and decoding.

    What came before it, of attempts that failed, is one span; so is what no phase accounts for:
    network and the router itself. Empty where the request has no first token.
    """
    if explained.end is None or not explained.attempts:
        return []
    timings, attempt = explained.end.timings, explained.attempts[-1]
    first_token = timings.time_to_first_token_seconds
    if not first_token:
        return []
    phases = [("reserve", attempt.reserve_seconds)] if attempt.decode_worker else []
    phases += [("queue", attempt.queue_seconds), ("prefill", attempt.prefill_seconds)]
    known = explained.admission_seconds + sum(seconds for _, seconds in phases)
    rest = max(0.0, first_token - known)
    is_retried = len(explained.attempts) > 1
    before = [("admission", explained.admission_seconds)]
    if is_retried:
        before.append(("retries", rest))
    after = [] if is_retried else [("other", rest)]
    return list(_laid_out([*before, *phases, *after], attempt.transfer_seconds, timings))


def _laid_out(
    phases: list[tuple[str, float]], transfer_seconds: float, timings: Timings
) -> Iterator[Span]:
    at = 0.0
    first_token = timings.time_to_first_token_seconds
    for name, seconds in phases:
        end = min(at + max(seconds, 0.0), first_token)
        yield Span(name, at, end)
        at = end
    last_token = max(first_token, timings.total_seconds)
    moved = min(first_token + max(transfer_seconds, 0.0), last_token)
    if moved > first_token:
        yield Span("transfer", first_token, moved)
    yield Span("decode", moved, last_token)


def draw(spans: list[Span], width: int, block: str) -> Iterator[Text]:
    """A line per span of `width` characters at most; without bars where those have no room."""
    total = max((span.end for span in spans), default=0.0)
    if not total:
        return
    room = min(MOST_WIDTH, width - NAME_WIDTH - SECONDS_WIDTH)
    if room < LEAST_WIDTH:
        room = 0
    for span in spans:
        begin = max(0, min(int(span.begin / total * room), room - 1))
        length = max(1, min(room, round(span.end / total * room)) - begin)
        bar = f"{' ' * begin}{block * length}"[:room]
        milliseconds = f"{(span.end - span.begin) * 1000:,.1f} ms"
        yield Text.assemble(
            (f"{span.name:<{NAME_WIDTH}}", "bold"), (f"{bar:<{room}}", "cyan"),
            f"{milliseconds:>{min(SECONDS_WIDTH, width - NAME_WIDTH)}}",
        )  # fmt: skip

"""Requests of a trace, as they came or at another rate; and conversations of its lengths."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from math import inf
from random import Random

from lengthwise_simulator.errors import SimulationError
from lengthwise_simulator.workload.planned import ArrivingRequest
from lengthwise_simulator.workload.text import Text, TextSpan
from lengthwise_simulator.workload.traces import OWN_KEYS, SESSION_KEYS, TraceRow


def as_recorded(rows: Sequence[TraceRow], *, speed: float = 1.0) -> list[ArrivingRequest]:
    """At the trace's times, `speed` times as fast. Errors: SimulationError where it has none."""
    if not 1e-6 <= speed <= 1e6:
        raise SimulationError(f"speed: got {speed:g}, expected a number from 1e-06 to 1e+06")
    requests = []
    for row in rows:
        if row.arrived_at is None:
            raise SimulationError("the trace has lengths alone: name a rate of arrivals")
        requests.append(_request(row, row.arrived_at / speed, row.text))
    return requests


def at_times(
    rows: Sequence[TraceRow], times: Iterator[float], number: int, draw: Random
) -> list[ArrivingRequest]:
    """`number` requests with the lengths of rows drawn at random, each like no other."""
    return [
        _request(draw.choice(rows), at, (TextSpan(OWN_KEYS + key, 1),))
        for key, at in enumerate(islice(times, number))
    ]


def scaled_lengths(
    requests: Sequence[ArrivingRequest], *, prompt: float = 1.0, output: float = 1.0
) -> list[ArrivingRequest]:
    """Of first requests; texts stay as they are."""
    return [
        replace(
            request,
            prompt_tokens=max(1, round(request.prompt_tokens * prompt)),
            output_tokens=max(1, round(request.output_tokens * output)),
            max_new_tokens=max(1, round(request.max_new_tokens * output)),
        )
        for request in requests
    ]


MOST_THINK_SECONDS = 1e6


@dataclass(frozen=True, slots=True, kw_only=True)
class Sessions:
    """Conversations whose turns add to one history, or agents' chains of calls of tools: then the
    pauses between turns are the tools'."""

    mean_turns: float = 4.0  # geometric
    think_seconds: float = 10.0  # mean of a log-normal pause
    think_sigma: float = 1.0
    context_length: int = 32_768  # a conversation ends before it is longer
    system_tokens: int = 0  # of a prompt that sessions share at their beginning
    system_prompts: int = 1  # how many of those there are

    def __post_init__(self) -> None:
        is_right = 1 <= self.mean_turns < inf and 0 <= self.think_seconds <= MOST_THINK_SECONDS
        if not is_right or self.system_prompts < 1:
            raise SimulationError(
                f"sessions: got {self.mean_turns:g} turns, {self.think_seconds:g} s between them"
                f" and {self.system_prompts} system prompts, expected at least 1, 0 to"
                f" {MOST_THINK_SECONDS:g} and at least 1"
            )


def conversations(
    sessions: Sessions,
    rows: Sequence[TraceRow],
    times: Iterator[float],
    number: int,
    draw: Random,
) -> list[ArrivingRequest]:
    """`number` first turns at `times`; each further one follows the reply to the one before. Every
    turn adds the prompt of a row, and its output is the reply."""
    return [
        _conversation(sessions, rows, at, SESSION_KEYS + key, draw)
        for key, at in enumerate(islice(times, number))
    ]


def _conversation(
    sessions: Sessions, rows: Sequence[TraceRow], at: float, key: int, draw: Random
) -> ArrivingRequest:
    system = sessions.system_tokens
    text: Text = (TextSpan(key, 1),)
    if system:
        shared = SESSION_KEYS * 2 - 1 - int(draw.random() * sessions.system_prompts)
        text = (TextSpan(shared, system), *text)
    history = system
    turns: list[tuple[int, int, float]] = []
    while True:
        row = draw.choice(rows)
        prompt = history + row.prompt_tokens
        if turns and prompt + row.output_tokens > sessions.context_length:
            break
        pause = draw.lognormvariate(-(sessions.think_sigma**2) / 2, sessions.think_sigma)
        turns.append((prompt, row.output_tokens, sessions.think_seconds * pause))
        history = prompt + row.output_tokens
        if draw.random() < 1 / sessions.mean_turns:
            break
    request: ArrivingRequest | None = None
    for prompt, output, think in reversed(turns):
        request = ArrivingRequest(
            arrived_at=at,
            prompt_tokens=prompt,
            output_tokens=output,
            max_new_tokens=output,
            text=text,
            think_seconds=think,
            follow_up=request,
        )
    assert request is not None
    return request


def _request(row: TraceRow, at: float, text: Text) -> ArrivingRequest:
    return ArrivingRequest(
        arrived_at=at,
        prompt_tokens=row.prompt_tokens,
        output_tokens=row.output_tokens,
        max_new_tokens=row.output_tokens,
        text=text,
    )

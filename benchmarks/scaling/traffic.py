"""Requests for the autoscaling simulation: shapes of load, and a real trace.

Pure: equal arguments give equal traffic. Lengths of the made-up shapes are log-normal with the
medians and spreads of the Azure conversation trace, except where a shape says otherwise.
"""

import csv
import math
import random
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path

from traces import open_trace

from lengthwise_policy.length_class import length_class
from scaling.workers import Request

Rate = Callable[[float], float]
"""Requests per second at an instant."""

Tokens = Callable[[random.Random, float], tuple[int, int]]
"""Prompt and output tokens of a request that comes at an instant."""


def chat(draw: random.Random, at: float) -> tuple[int, int]:
    """Medians 800 and 130 tokens, means near 1,150 and 210."""
    return _tokens(draw, 800, 0.85, 8000), _tokens(draw, 130, 0.98, 1000)


def code(draw: random.Random, at: float) -> tuple[int, int]:
    """As in the Azure code trace: medians 1,470 and 13 tokens, means near 2,050 and 28."""
    return _tokens(draw, 1470, 0.82, 7437), _tokens(draw, 13, 1.24, 500)


def phases(seconds: float) -> Tokens:
    """Long prompts with short replies, then short prompts with long replies, in turn."""

    def draw_tokens(draw: random.Random, at: float) -> tuple[int, int]:
        if int(at / seconds) % 2:
            return _tokens(draw, 150, 0.5, 2000), _tokens(draw, 450, 0.4, 2000)
        return _tokens(draw, 1800, 0.4, 6000), _tokens(draw, 40, 0.5, 500)

    return draw_tokens


def poisson(rate: Rate, peak: float, seconds: float, tokens: Tokens, seed: int) -> list[Request]:
    """Arrivals at a rate that changes, never above `peak`."""
    draw = random.Random(seed)
    requests, at = [], 0.0
    while (at := at + draw.expovariate(peak)) < seconds:
        if draw.random() * peak < rate(at):
            requests.append(_request(at, *tokens(draw, at)))
    return requests


def bursts(
    rate: float, variation: float, seconds: float, tokens: Tokens, seed: int
) -> list[Request]:
    """Gamma gaps with this coefficient of variation: 13 is the Azure code trace's."""
    draw = random.Random(seed)
    shape = 1 / variation**2
    requests, at = [], 0.0
    while (at := at + draw.gammavariate(shape, 1 / (rate * shape))) < seconds:
        requests.append(_request(at, *tokens(draw, at)))
    return requests


def read_trace(path: Path) -> list[Request]:
    """Azure's format: TIMESTAMP, ContextTokens, GeneratedTokens.

    ValueError when there is no such file or it has other columns.
    """
    with open_trace(path) as file:
        reader = csv.DictReader(file)
        columns = ["TIMESTAMP", "ContextTokens", "GeneratedTokens"]
        if reader.fieldnames != columns:
            raise ValueError(f"{path}: expected columns {columns}, got {reader.fieldnames}")
        rows = [(row[columns[0]], int(row[columns[1]]), int(row[columns[2]])) for row in reader]
    # Seven digits of a second are more than datetime takes.
    instants = [datetime.fromisoformat(instant[:26]) for instant, _, _ in rows]
    return [
        _request((at - instants[0]).total_seconds(), max(prompt, 1), max(output, 1))
        for at, (_, prompt, output) in zip(instants, rows, strict=True)
    ]


def step(low: float, high: float, begin: float, end: float) -> Rate:
    return lambda at: high if begin <= at < end else low


def ramp(low: float, high: float, seconds: float) -> Rate:
    """Up, and down again."""
    return lambda at: low + (high - low) * (1 - abs(2 * at / seconds - 1))


def copies(requests: Sequence[Request]) -> list[Request]:
    """Fresh ones of the same traffic."""
    return [_request(each.at, each.prompt_tokens, each.output_tokens) for each in requests]


def _request(at: float, prompt: int, output: int) -> Request:
    return Request(at=at, prompt_tokens=prompt, output_tokens=output, length=length_class(prompt))


def _tokens(draw: random.Random, median: float, sigma: float, most: int) -> int:
    return max(1, min(most, round(draw.lognormvariate(math.log(median), sigma))))

"""What one prefill worker is given: lengths of real traces, on the costs of three models.

Pure: equal arguments give equal requests. One token is generated of each.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random
from typing import Final

from simulation.disciplines import QWEN_32B
from traces import AZURE_CONVERSATIONS, SHAREGPT_LENGTHS

from lengthwise_policy.cost.model import CostModel
from lengthwise_simulator.cost.gpus import find_gpu
from lengthwise_simulator.cost.profile import CostProfile, LinearCosts
from lengthwise_simulator.cost.roofline import RooflineCosts
from lengthwise_simulator.workload.arrivals import poisson
from lengthwise_simulator.workload.planned import ArrivingRequest
from lengthwise_simulator.workload.requests import at_times
from lengthwise_simulator.workload.text import TextSpan
from lengthwise_simulator.workload.traces import SESSION_KEYS, TraceRow, read_trace
from scheduling.arms import CONTEXT_LENGTH
from scheduling.traffic import MULTI_TURN, Lengths, open_loop, read_lengths, scale

SMALL_LLAMA: Final = CostModel(
    step_seconds=0.0057,
    token_seconds=1.5e-4,
    attention_seconds=4.3e-8,
    history_seconds=0.0,
    decode_request_seconds=0.0,
    decode_context_seconds=0.0,
)
"""Of the live benchmark's model on one core."""

REPLY_SECONDS: Final = 0.5
"""A turn's reply, before the user thinks."""

REQUESTS: Final = 2000
"""Of one seed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """`requests`: of a seed, at so many a second on average, in the order of their arrival."""

    costs: CostProfile
    requests: Callable[[int, float], list[ArrivingRequest]]


def turns_of_chats(seed: int, rate: float) -> list[ArrivingRequest]:
    """ShareGPT's lengths as turns of conversations, each of which adds to its history."""
    found = []
    for number, conversation in enumerate(
        open_loop(
            MULTI_TURN,
            _scaled_lengths(),
            context_length=CONTEXT_LENGTH,
            seed=seed,
            rate=rate,
            seconds=REQUESTS / rate,
        )
    ):
        at, tokens = conversation.start_at, 0
        for index, turn in enumerate(conversation.turns):
            at += turn.think_seconds + REPLY_SECONDS if index else 0.0
            tokens += conversation.new_tokens(index)
            found.append(_request(at, tokens, SESSION_KEYS + number))
    return sorted(found, key=lambda request: request.arrived_at)[:REQUESTS]


def single_chats(seed: int, rate: float) -> list[ArrivingRequest]:
    """ShareGPT's prompts, each like no other."""
    draw = Random(seed)
    return at_times(_rows(SHAREGPT_LENGTHS), poisson(rate, draw), REQUESTS, draw)


def recorded(path: Path) -> Callable[[int, float], list[ArrivingRequest]]:
    """A slice of a trace, with its own bursts and shared prefixes; each seed another slice."""

    def requests(seed: int, rate: float) -> list[ArrivingRequest]:
        rows = _rows(path)
        first = seed * 2917 % max(len(rows) - REQUESTS, 1)
        part = list(_timed(rows[first : first + REQUESTS]))
        speed = rate * (part[-1][0] - part[0][0]) / len(part)
        return [
            ArrivingRequest(
                arrived_at=(at - part[0][0]) / speed,
                prompt_tokens=row.prompt_tokens,
                output_tokens=1,
                max_new_tokens=1,
                text=row.text,
            )
            for at, row in part
        ]

    return requests


def workloads(further: Path | None = None) -> Mapping[str, Workload]:
    """`further`: a trace with times, for Qwen2.5-32B on four H200."""
    h200 = find_gpu("H200")
    found = {
        "turns of chats, a small Llama on a core": Workload(
            costs=LinearCosts(SMALL_LLAMA), requests=turns_of_chats
        ),
        "chats, Qwen2.5-32B on an H200": Workload(
            costs=RooflineCosts(QWEN_32B, h200), requests=single_chats
        ),
        "Azure's chats as they came, Qwen2.5-32B on an H200": Workload(
            costs=RooflineCosts(QWEN_32B, h200), requests=recorded(AZURE_CONVERSATIONS)
        ),
    }
    if further is not None:
        found[f"{further.stem}, Qwen2.5-32B on four H200"] = Workload(
            costs=RooflineCosts(QWEN_32B, h200, 4), requests=recorded(further)
        )
    return found


def _request(at: float, tokens: int, key: int) -> ArrivingRequest:
    return ArrivingRequest(
        arrived_at=at,
        prompt_tokens=tokens,
        output_tokens=1,
        max_new_tokens=1,
        text=(TextSpan(key, 1),),
    )


def _timed(rows: list[TraceRow]) -> Iterator[tuple[float, TraceRow]]:
    for row in rows:
        if row.arrived_at is None:
            raise ValueError("a trace of lengths alone: expected one with times")
        yield row.arrived_at, row


@cache
def _rows(path: Path) -> list[TraceRow]:
    return [row._replace(output_tokens=1) for row in read_trace(path)]


@cache
def _scaled_lengths() -> tuple[Lengths, ...]:
    return tuple(scale(read_lengths(SHAREGPT_LENGTHS), CONTEXT_LENGTH))

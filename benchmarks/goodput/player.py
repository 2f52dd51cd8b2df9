"""Plays a list of arrivals against a server of OpenAI's API: the same client for every arm.

A request's first token counts from when it was due, however late this process was. One that fails,
or has not ended when the play does, has missed its objectives; it is not left out.
"""

import asyncio
import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import httpx

from goodput.traffic import Arrival

DRAIN_SECONDS: Final = 30.0
"""For requests under way after the last has come; later they have missed any objective."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What the client saw of one request. Infinite where it failed or came to no end."""

    ttft_seconds: float
    tpot_seconds: float  # (last - first) / (tokens - 1); 0 where there is one token
    output_tokens: int
    error: str = ""


def missed(error: str) -> Outcome:
    return Outcome(ttft_seconds=math.inf, tpot_seconds=math.inf, output_tokens=0, error=error)


async def play(
    base_url: str, model: str, vocab_size: int, arrivals: Sequence[Arrival]
) -> list[Outcome]:
    """All of them, each at its time, in their order."""
    timeout = httpx.Timeout(arrivals[-1].at + DRAIN_SECONDS, connect=5.0)
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=64)
    async with httpx.AsyncClient(base_url=base_url, timeout=timeout, limits=limits) as client:
        began_at = time.perf_counter()
        tasks = [
            asyncio.create_task(_ask(client, model, vocab_size, arrival, began_at))
            for arrival in arrivals
        ]
        await asyncio.wait(tasks, timeout=arrivals[-1].at + DRAIN_SECONDS)
        for task in tasks:
            task.cancel()
        found = await asyncio.gather(*tasks, return_exceptions=True)
    return [
        one if isinstance(one, Outcome) else missed(f"{type(one).__name__}: {one}") for one in found
    ]


async def _ask(
    client: httpx.AsyncClient, model: str, vocab_size: int, arrival: Arrival, began_at: float
) -> Outcome:
    """Errors: those of httpx; ValueError for an answer of another length."""
    due_at = began_at + arrival.at
    body = {
        "model": model,
        "prompt": arrival.token_ids(vocab_size),
        "max_tokens": arrival.output_tokens,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    await asyncio.sleep(due_at - time.perf_counter())
    first_at = last_at = num_tokens = 0.0
    async with client.stream("POST", "/v1/completions", json=body) as response:
        if response.status_code != httpx.codes.OK:
            text = (await response.aread()).decode(errors="replace")
            raise ValueError(f"status {response.status_code}: {text[:200]}")
        async for line in response.aiter_lines():
            if not line.startswith("data: ") or line == "data: [DONE]":
                continue
            event = json.loads(line.removeprefix("data: "))
            if "error" in event:
                raise ValueError(str(event["error"])[:200])
            if event.get("choices"):
                last_at = time.perf_counter()
                first_at = first_at or last_at
            if event.get("usage"):
                num_tokens = event["usage"]["completion_tokens"]
    if num_tokens != arrival.output_tokens:
        raise ValueError(f"got {num_tokens} tokens, expected {arrival.output_tokens}")
    gaps = max(1, arrival.output_tokens - 1)
    return Outcome(
        ttft_seconds=first_at - due_at,
        tpot_seconds=(last_at - first_at) / gaps,
        output_tokens=arrival.output_tokens,
    )

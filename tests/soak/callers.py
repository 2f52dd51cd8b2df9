"""Callers at a steady rate, through the SDK and without it, and what became of each request."""

import asyncio
import itertools
import random
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol

import grpc
from soak.mix import Mix, SoakQuestion
from soak.timeline import Timeline

import lengthwise
from lengthwise_wire.v1 import common_pb2, inference_pb2, inference_pb2_grpc

Route = Literal["sdk", "raw"]

REQUEST_SECONDS = 120.0
"""The deadline of every request."""

SILENT_SECONDS = 10.0
"""No request that could be served may wait longer for its next tokens."""

REASONS = {
    common_pb2.FINISH_REASON_STOP: "stop",
    common_pb2.FINISH_REASON_LENGTH: "length",
}


class Part(NamedTuple):
    """A piece of an answer; the last has a reason."""

    tokens: Sequence[int]
    text: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of a request. Silence: the longest wait for tokens, or for the end, less the time
    that had no path. `unservable`: it failed, or was silent for long, for want of a path."""

    route: Route
    number: int
    began_at: float
    ended_at: float
    silence: float
    error: str = ""
    wrong: str = ""
    unservable: bool = False


class Answering(Protocol):
    """Asks for an answer; leaving it early abandons the request."""

    def __call__(self, question: SoakQuestion, name: str) -> AsyncGenerator[Part]: ...


def through_sdk(client: lengthwise.AsyncClient) -> Answering:
    async def ask(question: SoakQuestion, name: str) -> AsyncGenerator[Part]:
        options = lengthwise.Options(
            max_tokens=question.max_tokens,
            stop=question.stop,
            temperature=0.0 if question.seed is None else 0.9,
            seed=question.seed,
            ignore_eos=True,
            request_id=name,
        )
        async with aclosing(client.stream(list(question.prompt), **options)) as chunks:
            async for chunk in chunks:
                yield Part(chunk.token_ids, chunk.text, chunk.finish_reason or "")

    return ask


def without_sdk(stub: inference_pb2_grpc.InferenceStub) -> Answering:
    async def ask(question: SoakQuestion, name: str) -> AsyncGenerator[Part]:
        temperature = 0.0 if question.seed is None else 0.9
        call = stub.Generate(
            inference_pb2.GenerateRequest(
                request_id=name,
                prompt=inference_pb2.Prompt(token_ids=common_pb2.TokenIds(ids=question.prompt)),
                sampling=common_pb2.SamplingParams(temperature=temperature, seed=question.seed),
                stop=inference_pb2.StopConditions(strings=question.stop, ignore_eos=True),
                max_tokens=question.max_tokens,
            ),
            timeout=REQUEST_SECONDS,
        )
        try:
            async for message in call:
                yield Part(message.token_ids, message.text, REASONS.get(message.finish_reason, ""))
        finally:
            call.cancel()

    return ask


@dataclass(slots=True)
class Callers:
    """Requests arrive as those of many users do, at random times, however long the others take: a
    moment of silence meets as many as it would meet of theirs."""

    mix: Mix
    ways: dict[Route, Sequence[Answering]]
    timelines: dict[Route, Timeline]
    per_second: float
    seed: int
    ended: Callable[[Outcome], None]
    asked: int = 0
    stop: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self) -> None:
        """Until `stop` is set and every request has ended."""
        rng = random.Random(self.seed)
        due_at = time.monotonic()
        async with asyncio.TaskGroup() as group:
            while not self.stop.is_set():
                due_at += rng.expovariate(self.per_second)
                await asyncio.sleep(due_at - time.monotonic())
                group.create_task(self._ask(self.asked))
                self.asked += 1

    async def _ask(self, number: int) -> None:
        """Two of three through the SDK."""
        route: Route = "raw" if number % 3 == 2 else "sdk"
        ways = self.ways[route]
        question = self.mix.question(number)
        tokens: list[int] = []
        text = reason = error = ""
        times = [time.monotonic()]
        parts = ways[number // 3 % len(ways)](question, f"soak-{number}")
        try:
            async with asyncio.timeout(question.abandon_seconds), aclosing(parts):
                async for part in parts:
                    tokens += part.tokens
                    text, reason = text + part.text, part.reason
                    if part.tokens:
                        times.append(time.monotonic())
        except TimeoutError:
            pass
        except lengthwise.LengthwiseError as failure:
            error = f"{type(failure).__name__}: {failure}"
        except grpc.aio.AioRpcError as failure:
            error = f"{failure.code().name}: {failure.details()}"
        times.append(time.monotonic())
        self.ended(self._outcome(route, number, times, error, question, (tokens, text, reason)))

    def _outcome(
        self,
        route: Route,
        number: int,
        times: Sequence[float],
        error: str,
        question: SoakQuestion,
        answer: tuple[Sequence[int], str, str],
    ) -> Outcome:
        timeline = self.timelines[route]
        silence = timeline.silence(times)
        longest = max(end - begin for begin, end in itertools.pairwise(times))
        return Outcome(
            route=route,
            number=number,
            began_at=times[0],
            ended_at=times[-1],
            silence=silence,
            error=error,
            wrong=self.mix.mistake(question, *answer),
            unservable=(bool(error) and timeline.is_out(times[-1]))
            or silence <= SILENT_SECONDS < longest,
        )

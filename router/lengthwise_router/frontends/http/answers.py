"""The answers to the requests of one call, as they come: collected whole, or written as events."""

import json
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final

from lengthwise_router.frontends.http.errors import ErrorAnswer
from lengthwise_wire.errors import InvalidRequest
from lengthwise_wire.v1 import common_pb2, inference_pb2

FINISH_REASONS: Final = {
    common_pb2.FINISH_REASON_STOP: "stop",
    common_pb2.FINISH_REASON_LENGTH: "length",
}

DONE: Final = b"data: [DONE]\n\n"

KEEPALIVE: Final = b": still here\n\n"
"""A comment, which readers of events skip."""

MAX_COLLECTED_LOGPROBS: Final = 1 << 16
"""Of a call that is answered as a whole: 10 MB of text, made in one go. Streams keep none."""

INLINE_LOGPROBS: Final = 1 << 11

Write = Callable[[bytes], Awaitable[None]]


@dataclass(slots=True)
class Answer:
    """One choice, or a piece of it."""

    index: int
    is_first: bool = True
    token_ids: list[int] = field(default_factory=list)  # of `logprobs`
    pieces: list[str] = field(default_factory=list)
    logprobs: list[common_pb2.TokenLogprobs] | None = None  # None: not asked for
    begins_in_reasoning: bool = False
    finish_reason: str | None = None
    usage: inference_pb2.Usage | None = None

    @property
    def text(self) -> str:
        return "".join(self.pieces)

    def take(self, response: inference_pb2.GenerateResponse) -> None:
        self.pieces.append(response.text)
        self.begins_in_reasoning |= response.begins_in_reasoning
        if self.logprobs is not None:
            self.token_ids.extend(response.token_ids)
            self.logprobs.extend(response.logprobs)
        if response.finish_reason:
            self.finish_reason = FINISH_REASONS[response.finish_reason]
            self.usage = response.usage


class Shape(ABC):
    """What an endpoint makes of answers."""

    prefix: ClassVar[str]
    """Of the answer's id."""
    whole: ClassVar[str]
    piece: ClassVar[str]
    """What `object` says of an answer, and of a piece."""

    @abstractmethod
    def choice(self, answer: Answer) -> Mapping[str, Any]:
        """The fields of a whole choice, beside its index and finish reason."""

    @abstractmethod
    def first(self) -> Mapping[str, Any] | None:
        """Those of a choice's first event, if there is one before any text."""

    @abstractmethod
    def deltas(self, piece: Answer) -> Sequence[Mapping[str, Any]]:
        """Those of the events that a piece makes."""

    @abstractmethod
    def last(self) -> Mapping[str, Any]:
        """Those of the event with the finish reason."""

    def finish_reason(self, piece: Answer) -> str | None:
        """Of the choice that this is, or is the last piece of."""
        return piece.finish_reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """What all answers and events of one call share."""

    request_id: str
    model: str
    count: int  # of choices
    has_logprobs: bool
    created: int = field(default_factory=lambda: int(time.time()))

    def envelope(self, shape: Shape, kind: str) -> dict[str, Any]:
        return {
            "id": f"{shape.prefix}-{self.request_id}",
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": None,
        }

    def usage(self, answers: Sequence[Answer]) -> dict[str, Any]:
        """A prompt is in the usage of one of its choices alone."""
        usages = [one.usage for one in answers if one.usage is not None]
        prompt = sum(usage.prompt_tokens for usage in usages)
        cached = sum(usage.cached_prompt_tokens for usage in usages)
        output = sum(usage.output_tokens for usage in usages)
        return {
            "prompt_tokens": prompt,
            "completion_tokens": output,
            "total_tokens": prompt + output,
            "prompt_tokens_details": {"cached_tokens": cached},
        }

    def new_answers(self) -> list[Answer]:
        return [self.new_answer(index) for index in range(self.count)]

    def new_answer(self, index: int, *, is_first: bool = True) -> Answer:
        return Answer(index, is_first, logprobs=[] if self.has_logprobs else None)


class Collected:
    """The answers of a call that is answered as a whole."""

    def __init__(self, call: Call, shape: Shape) -> None:
        self._call = call
        self._shape = shape
        self._answers = call.new_answers()
        self._num_logprobs = 0

    async def take(self, index: int, response: inference_pb2.GenerateResponse) -> None:
        """Errors: InvalidRequest for more log probabilities than are collected."""
        self._num_logprobs += sum(1 + len(each.top) for each in response.logprobs)
        if self._num_logprobs > MAX_COLLECTED_LOGPROBS:
            raise InvalidRequest(
                f"logprobs: got more than {MAX_COLLECTED_LOGPROBS} in all choices together,"
                " alternatives included; expected fewer, or stream set to true"
            )
        self._answers[index].take(response)

    async def keep_alive(self) -> None:
        """Nothing can be said before all is there."""

    @property
    def is_large(self) -> bool:
        """Whether its body takes long enough to be made in a thread."""
        return self._num_logprobs > INLINE_LOGPROBS

    def body(self) -> bytes:
        choices = [
            {
                "index": answer.index,
                **self._shape.choice(answer),
                "finish_reason": self._shape.finish_reason(answer),
            }
            for answer in self._answers
        ]
        answer = self._call.envelope(self._shape, self._shape.whole)
        return json_bytes({**answer, "choices": choices, "usage": self._call.usage(self._answers)})


@dataclass(frozen=True, slots=True, kw_only=True)
class ChoiceAnswers:
    """How a call for choices is answered."""

    call: Call
    shape: Shape
    include_usage: bool

    def collected(self) -> Collected:
        return Collected(self.call, self.shape)

    def events(self, write: Write) -> "Events":
        return Events(self.call, self.shape, write, include_usage=self.include_usage)


class Events:
    """The answers of a call that is answered as server-sent events, each when it comes."""

    def __init__(self, call: Call, shape: Shape, write: Write, *, include_usage: bool) -> None:
        self._call = call
        self._shape = shape
        self._write = write
        self._include_usage = include_usage
        self._answers = call.new_answers()  # for their usage
        self._has_begun = [False] * call.count
        # An event is this, the choices and the end.
        envelope = json_bytes(call.envelope(shape, shape.piece))
        self._start = b"data: " + envelope[:-1] + b', "choices": '
        self._end = b', "usage": null}\n\n' if include_usage else b"}\n\n"

    @property
    def has_begun(self) -> bool:
        """Whether the status has been told."""
        return any(self._has_begun)

    async def take(self, index: int, response: inference_pb2.GenerateResponse) -> None:
        events = []
        is_first = not self._has_begun[index]
        if is_first:
            self._has_begun[index] = True
            if (fields := self._shape.first()) is not None:
                events.append(self._event(index, fields))
        piece = self._call.new_answer(index, is_first=is_first)
        piece.take(response)
        events += [self._event(index, fields) for fields in self._shape.deltas(piece)]
        if piece.finish_reason is not None:
            self._answers[index].usage = piece.usage
            events.append(self._event(index, self._shape.last(), self._shape.finish_reason(piece)))
        if events:
            await self._write(b"".join(events))

    async def keep_alive(self) -> None:
        if self.has_begun:
            await self._write(KEEPALIVE)

    async def finish(self) -> None:
        """All choices have come."""
        end = DONE
        if self._include_usage:
            usage = json_bytes(self._call.usage(self._answers))
            end = self._start + b'[], "usage": ' + usage + b"}\n\n" + DONE
        await self._write(end)

    async def fail(self, error: ErrorAnswer) -> None:
        await self._write(b"data: " + error.body + b"\n\n")

    def _event(
        self, index: int, fields: Mapping[str, Any], finish_reason: str | None = None
    ) -> bytes:
        choice = {"index": index, "finish_reason": finish_reason, "logprobs": None, **fields}
        return self._start + json_bytes([choice]) + self._end


def json_bytes(value: object) -> bytes:
    return json.dumps(value).encode()

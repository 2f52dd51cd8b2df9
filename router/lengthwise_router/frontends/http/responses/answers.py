"""How a call is answered: with one response, or with events that tell of it as it comes."""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from lengthwise_router.frontends.http.answers import (
    INLINE_LOGPROBS,
    KEEPALIVE,
    MAX_COLLECTED_LOGPROBS,
    Answer,
    Write,
    json_bytes,
)
from lengthwise_router.frontends.http.errors import ErrorAnswer
from lengthwise_router.frontends.http.logprobs import TokenTexts, chat_logprobs
from lengthwise_router.frontends.http.responses.output import Event, ResponseOutput
from lengthwise_wire.errors import InvalidRequest
from lengthwise_wire.v1 import inference_pb2

NewOutput = Callable[[bool], ResponseOutput]
"""Of an answer that begins in reasoning, or does not."""

_CODES: Final = {400: "invalid_prompt", 429: "rate_limit_exceeded"}
"""Of errors; any other is `server_error`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResponseAnswers:
    """What both ways of answering have in common."""

    request_id: str
    echoed: Mapping[str, Any]  # fields of the response that the call decides
    has_logprobs: bool
    texts: TokenTexts
    new_output: NewOutput
    created: int = field(default_factory=lambda: int(time.time()))

    def collected(self) -> "CollectedResponse":
        return CollectedResponse(ResponseInProgress(self))

    def events(self, write: Write) -> "ResponseEvents":
        return ResponseEvents(ResponseInProgress(self), write)


class ResponseInProgress:
    """The response, of what has come so far."""

    def __init__(self, answers: ResponseAnswers) -> None:
        self._answers = answers
        self._output: ResponseOutput | None = None
        self._usage: inference_pb2.Usage | None = None
        self._reason: str | None = None
        self._num_tokens = 0
        self._num_reasoning_tokens = 0
        self.num_logprobs = 0

    def take(self, message: inference_pb2.GenerateResponse) -> list[Event]:
        """What a further piece of the answer adds. Errors: InvalidRequest for more log
        probabilities than are kept: the last events tell all of them again."""
        answers = self._answers
        piece = Answer(0, logprobs=[] if answers.has_logprobs else None)
        piece.take(message)
        if self._output is None:
            self._output = answers.new_output(piece.begins_in_reasoning)
        self._num_tokens += len(message.token_ids)
        self.num_logprobs += sum(1 + len(each.top) for each in message.logprobs)
        if self.num_logprobs > MAX_COLLECTED_LOGPROBS:
            raise InvalidRequest(
                f"include: got more than {MAX_COLLECTED_LOGPROBS} log probabilities, alternatives"
                " included; expected fewer"
            )
        logprobs = chat_logprobs(piece, answers.texts)["content"] if piece.logprobs else []
        events = self._output.append(piece.text, logprobs)
        if piece.finish_reason is not None:
            self._usage, self._reason = piece.usage, piece.finish_reason
            events += self._output.finish(is_whole=piece.finish_reason == "stop")
        if self._output.is_reasoning:
            self._num_reasoning_tokens = self._num_tokens
        return events

    def begun(self) -> dict[str, Any]:
        return {**self._told("in_progress"), "output": []}

    def ended(self) -> dict[str, Any]:
        if self._reason == "stop":
            return {**self._told("completed"), "completed_at": int(time.time())}
        return {
            **self._told("incomplete"),
            "incomplete_details": {"reason": "max_output_tokens"},
        }

    def whole(self) -> dict[str, Any]:
        """Where no event has told of what it ends with."""
        output = [] if self._output is None else self._output.whole_items
        return {**self.ended(), "output": output}

    def failed(self, error: ErrorAnswer) -> tuple[list[Event], dict[str, Any]]:
        """The events that come before, and the response."""
        events = self._output.finish(is_whole=False) if self._output is not None else []
        code = _CODES.get(error.status, "server_error")
        told = {"code": code, "message": json.loads(error.body)["error"]["message"]}
        return events, {**self._told("failed"), "error": told}

    def _told(self, status: str) -> dict[str, Any]:
        answers = self._answers
        return {
            "id": f"resp_{answers.request_id}",
            "object": "response",
            "created_at": answers.created,
            "completed_at": None,
            "status": status,
            "error": None,
            "incomplete_details": None,
            **answers.echoed,
            "output": [] if self._output is None else self._output.items,
            "usage": None if self._usage is None else self._told_usage(self._usage),
        }

    def _told_usage(self, usage: inference_pb2.Usage) -> dict[str, Any]:
        return {
            "input_tokens": usage.prompt_tokens,
            "input_tokens_details": {
                "cached_tokens": usage.cached_prompt_tokens,
                "cache_write_tokens": 0,
            },
            "output_tokens": usage.output_tokens,
            "output_tokens_details": {"reasoning_tokens": self._num_reasoning_tokens},
            "total_tokens": usage.prompt_tokens + usage.output_tokens,
        }


class CollectedResponse:
    """Told as a whole."""

    def __init__(self, response: ResponseInProgress) -> None:
        self._response = response

    async def take(self, index: int, message: inference_pb2.GenerateResponse) -> None:
        self._response.take(message)

    async def keep_alive(self) -> None:
        """Nothing can be said before all is there."""

    @property
    def is_large(self) -> bool:
        return self._response.num_logprobs > INLINE_LOGPROBS

    def body(self) -> bytes:
        return json_bytes(self._response.whole())


class ResponseEvents:
    """Told as server-sent events, as it comes."""

    def __init__(self, response: ResponseInProgress, write: Write) -> None:
        self._response = response
        self._write = write
        self._num_events = 0

    @property
    def has_begun(self) -> bool:
        return self._num_events > 0

    async def take(self, index: int, message: inference_pb2.GenerateResponse) -> None:
        events: list[Event] = []
        if not self.has_begun:
            begun = self._response.begun()
            kinds = ("response.created", "response.in_progress")
            events = [{"type": kind, "response": begun} for kind in kinds]
        events += self._response.take(message)
        await self._send(events)

    async def keep_alive(self) -> None:
        if self.has_begun:
            await self._write(KEEPALIVE)

    async def finish(self) -> None:
        response = self._response.ended()
        await self._send([{"type": f"response.{response['status']}", "response": response}])

    async def fail(self, error: ErrorAnswer) -> None:
        events, response = self._response.failed(error)
        await self._send([*events, {"type": "response.failed", "response": response}])

    async def _send(self, events: list[Event]) -> None:
        written = []
        for event in events:
            numbered = json_bytes({**event, "sequence_number": self._num_events})
            written.append(b"event: %s\ndata: %s\n\n" % (event["type"].encode(), numbered))
            self._num_events += 1
        if written:
            await self._write(b"".join(written))

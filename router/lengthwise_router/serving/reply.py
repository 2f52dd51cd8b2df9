"""Tokens → messages to the client: text, stop strings, usage and timings."""

import time
from collections.abc import Collection

from lengthwise_router.metrics import RouterMetrics
from lengthwise_router.serving.calls.parts import ToldParts
from lengthwise_router.serving.generation import Generation, Tokens
from lengthwise_router.text.answer_text import AnswerText
from lengthwise_router.text.vocabulary import Vocabulary
from lengthwise_wire.v1 import common_pb2, inference_pb2

STOP = common_pb2.FINISH_REASON_STOP


class Reply:
    """The responses to one request."""

    def __init__(
        self,
        generation: Generation,
        vocabulary: Vocabulary,
        metrics: RouterMetrics,
        shown: Collection[str] = (),
        parts: ToldParts | None = None,
    ) -> None:
        """`shown`: special tokens that the text has. `parts`: what it is made of is told."""
        self._generation = generation
        request = generation.request
        self._text = AnswerText(
            vocabulary,
            generation.token_ids[: generation.num_prompt_tokens],
            request.stop_strings,
            request.sampling.min_tokens,
            shown,
        )
        self._parts = parts
        resumed = self._text.resume(request.resumed_token_ids)
        if parts is not None:
            parts.append(resumed)  # the client has them
        self._metrics = metrics
        self._arrived_at = generation.deadline.arrived_at
        self._first_at = 0.0
        self._last_at = 0.0
        self._num_tokens = len(request.resumed_token_ids)  # in responses, those resumed included

    def resume(self) -> inference_pb2.GenerateResponse | None:
        """The last message, if what the client has received already is all."""
        finish_reason = STOP if self._text.is_stopped else self._generation.finish_reason
        if not finish_reason:
            return None
        self._first_at = self._last_at = time.monotonic()
        response = inference_pb2.GenerateResponse(
            index=self._num_tokens, choice=self._generation.request.choice
        )
        self._open(response)
        self._close(response, finish_reason)
        return response

    def append(self, tokens: Tokens) -> inference_pb2.GenerateResponse:
        """The message for these tokens. The last one has a finish reason, be it the tokens' own or
        a stop string's."""
        now, generation = time.monotonic(), self._generation
        token_ids = tokens.token_ids
        num_tokens, text = self._text.append(token_ids)
        finish_reason = tokens.finish_reason
        if self._text.is_stopped:
            finish_reason = STOP
            token_ids = token_ids[:num_tokens]
        response = inference_pb2.GenerateResponse(
            index=tokens.first_index,
            token_ids=token_ids,
            text=text,
            choice=generation.request.choice,
        )
        if tokens.logprobs:
            response.logprobs.extend(tokens.logprobs[:num_tokens])
        self._num_tokens += num_tokens
        if not self._first_at:
            self._first_at = now
            self._open(response)
            self._metrics.first_token(generation.length_class, now - self._arrived_at)
            self._metrics.prompt_computed(
                generation.num_prompt_tokens, generation.cached_prompt_tokens or 0
            )
        elif num_tokens:
            self._metrics.inter_token_latency.observe((now - self._last_at) / num_tokens)
        self._last_at = now
        if finish_reason:
            self._close(response, finish_reason)
        elif self._parts is not None:
            response.parts.extend(self._parts.append(text))
        return response

    def _open(self, response: inference_pb2.GenerateResponse) -> None:
        request = self._generation.request
        response.request_id = request.request_id
        response.seed = request.sampling.seed
        response.begins_in_reasoning = (
            self._generation.begins_in_reasoning and not request.resumed_token_ids
        )

    def _close(
        self, response: inference_pb2.GenerateResponse, finish_reason: common_pb2.FinishReason
    ) -> None:
        """Adds what was held back, and what only the last message carries."""
        generation = self._generation
        response.text += self._text.finish()
        if self._parts is not None:
            response.parts.extend(self._parts.append(response.text) + self._parts.finish())
        if self._text.is_stopped:
            finish_reason = STOP
        response.finish_reason = finish_reason
        usage = response.usage
        usage.output_tokens = self._num_tokens
        if not generation.request.choice:  # the prompt counts once
            usage.prompt_tokens = generation.num_prompt_tokens
            usage.cached_prompt_tokens = generation.cached_prompt_tokens or 0
        response.timings.CopyFrom(self._timings())
        self._metrics.finished(
            generation.length_class,
            self._num_fresh,
            ttft=response.timings.time_to_first_token_seconds,
            tpot=response.timings.time_per_output_token_seconds,
        )

    def record(self) -> None:
        """To be called when the request is over, however it ended."""
        generation = self._generation
        generation.record.timed(
            self._timings(),
            output_tokens=self._num_tokens,
            cached_prompt_tokens=generation.cached_prompt_tokens or 0,
        )

    @property
    def _num_fresh(self) -> int:
        return self._num_tokens - len(self._generation.request.resumed_token_ids)

    def _timings(self) -> inference_pb2.PhaseTimings:
        """Where the time went, up to the last token in a response."""
        generation, num_fresh = self._generation, self._num_fresh
        timings = generation.timings
        if self._first_at:
            timings.time_to_first_token_seconds = self._first_at - self._arrived_at
            timings.total_seconds = self._last_at - self._arrived_at
        if num_fresh > 1:
            timings.time_per_output_token_seconds = (self._last_at - self._first_at) / (
                num_fresh - 1
            )
        return timings

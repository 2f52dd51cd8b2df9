"""One request on its way: what is to be generated, what has been, and what that took."""

from typing import NamedTuple

from lengthwise_policy.length_class import LENGTH_CLASSES, LengthClass, length_class
from lengthwise_policy.placement.placement import Placement
from lengthwise_policy.placement.shared_prompt import SHARED_PROMPT
from lengthwise_policy.types import WorkerId
from lengthwise_router.serving.calls.shared_prompt import SharedPrompt
from lengthwise_router.serving.deadline import RequestDeadline
from lengthwise_router.serving.records import RequestRecord
from lengthwise_router.text.request import Request
from lengthwise_router.workers.prefixes import PromptPrefix
from lengthwise_wire.v1 import common_pb2, decode_pb2, inference_pb2, prefill_pb2

_CLASSES: dict[str, LengthClass] = {name: name for name in LENGTH_CLASSES}


class Tokens(NamedTuple):
    """Consecutive tokens of a request; `finish_reason` is 0 until the last of them."""

    first_index: int
    token_ids: list[int]
    logprobs: list[common_pb2.TokenLogprobs]
    finish_reason: common_pb2.FinishReason


class WrongEnd(Exception):
    """The tokens do not end where the worker reports their end."""


class Generation:
    """A request whose prompt is known, and the tokens generated for it so far; `grammar` is what
    its constraint was compiled to."""

    def __init__(
        self,
        *,
        request: Request,
        prompt_ids: list[int],
        max_tokens: int,
        begins_in_reasoning: bool = False,
        grammar: str = "",
        deadline: RequestDeadline,
        record: RequestRecord,
        shared_prompt: SharedPrompt | None = None,
        prefix: PromptPrefix | None = None,
    ) -> None:
        """`shared_prompt`: of a sample."""
        self.request = request
        self.needs = request.needs
        """Capabilities that its workers must have: once begun, those of the first ones too."""
        self.shared_prompt = shared_prompt
        self._has_joined = False
        self.record = record
        self.prefix = prefix or PromptPrefix(request.cache_salt, request.adapter)
        self.begins_in_reasoning = begins_in_reasoning
        self.grammar = grammar
        self.token_ids = [*prompt_ids, *request.resumed_token_ids]  # the whole sequence; grows
        self.num_prompt_tokens = len(prompt_ids)
        self.max_tokens = self._max_tokens = max_tokens
        self.deadline = deadline
        self.timings = inference_pb2.PhaseTimings()  # of all attempts together
        self.length_class: LengthClass = length_class(len(prompt_ids))
        """Of the prompt, and from the first attempt on of its residual tokens there."""
        self.cached_prompt_tokens: int | None = None
        """Of the attempt that gave the first token; whatever is computed later was computed for
        this request before."""
        record.measured(len(prompt_ids), max_tokens, self.length_class)

    def beside(
        self, request: Request, max_tokens: int, deadline: RequestDeadline, record: RequestRecord
    ) -> "Generation":
        """Another choice of the same prompt."""
        return Generation(
            request=request,
            prompt_ids=self.token_ids[: self.num_prompt_tokens],
            max_tokens=max_tokens,
            begins_in_reasoning=self.begins_in_reasoning,
            grammar=self.grammar,
            deadline=deadline,
            record=record,
            shared_prompt=self.shared_prompt,
            prefix=self.prefix.beginning(self.num_prompt_tokens),
        )

    def limit(self, new_tokens: int) -> bool:
        """No more than so many further tokens fit, which a request that leaves `max_tokens` open
        takes for its limit. Not while an attempt runs. Returns whether that changed it."""
        if self.request.max_tokens is not None:
            return False
        before = self.max_tokens
        most = min(self._max_tokens, self.num_generated + new_tokens)
        self.max_tokens = max(most, self.request.sampling.min_tokens)
        self.record.limited(self.max_tokens)
        return self.max_tokens != before

    @property
    def has_begun(self) -> bool:
        """Whether it has tokens that were not resumed."""
        return self.num_generated > len(self.request.resumed_token_ids)

    @property
    def num_generated(self) -> int:
        return len(self.token_ids) - self.num_prompt_tokens

    @property
    def num_remaining(self) -> int:
        return self.max_tokens - self.num_generated

    @property
    def finish_reason(self) -> common_pb2.FinishReason:
        """Why the request is over after the tokens it has, as far as tokens alone show; else 0."""
        if not self.num_generated:
            return common_pb2.FINISH_REASON_UNSPECIFIED
        if self.token_ids[-1] in self.request.stop_token_ids:
            return common_pb2.FINISH_REASON_STOP
        if not self.num_remaining:
            return common_pb2.FINISH_REASON_LENGTH
        return common_pb2.FINISH_REASON_UNSPECIFIED

    def placed(self, placement: Placement) -> None:
        """An attempt begins."""
        self.record.placed(placement)
        self._has_joined = placement.rule == SHARED_PROMPT
        if placement.chosen is not None:
            self._classify(length_class(placement.chosen.residual_tokens))

    def reserved(self, seconds: float, response: decode_pb2.ReserveResponse) -> None:
        """A decode worker has blocks for the request, after so long."""
        self.timings.reserve_seconds += seconds
        self.record.reserved(seconds, response)

    def prefilled(self, report: prefill_pb2.PrefillResponse | decode_pb2.LocalPrefill) -> None:
        """A prefill worker has computed the prompt, or the decode worker itself."""
        self.timings.queue_seconds += report.queue_seconds
        self.timings.prefill_seconds += report.prefill_seconds
        if self.cached_prompt_tokens is None:
            self.cached_prompt_tokens = min(report.num_cached_tokens, self.num_prompt_tokens)
        self.record.prefilled(report)
        if isinstance(report, prefill_pb2.PrefillResponse):
            self._classify(_CLASSES.get(report.length_class, self.length_class))
        else:
            self._classify(length_class(self.num_prompt_tokens - report.num_cached_tokens))

    def prompt_held_by(self, worker_id: WorkerId, block_size: int) -> None:
        """A decode worker has computed a token of this request: the full blocks of its prompt lie
        there, for other samples."""
        if self.shared_prompt is not None:
            num_tokens = (self.num_prompt_tokens - 1) // block_size * block_size
            self.shared_prompt.held_by(worker_id, num_tokens)

    def append(
        self,
        token_ids: list[int],
        logprobs: list[common_pb2.TokenLogprobs],
        ended: common_pb2.FinishReason | None,
    ) -> Tokens:
        """Takes the next tokens; `ended` is what the worker calls their end.

        Errors: WrongEnd, and none of them is taken.
        """
        if len(token_ids) > self.num_remaining:
            raise WrongEnd(f"sent {len(token_ids)} tokens of {self.num_remaining}")
        index = self.num_generated
        self.token_ids.extend(token_ids)
        if ended is not None and ended != self.finish_reason:
            total = self.num_generated
            del self.token_ids[len(self.token_ids) - len(token_ids) :]
            raise WrongEnd(f"ended with reason {ended} after {total} of {self.max_tokens} tokens")
        return Tokens(index, token_ids, logprobs, ended or common_pb2.FINISH_REASON_UNSPECIFIED)

    def _classify(self, name: LengthClass) -> None:
        # A sample that joins others waits for all of their prompt.
        if not self.timings.retries and not self._has_joined:
            self.length_class = name
            self.record.classified(name)

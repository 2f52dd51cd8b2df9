"""The edge: what a client sent → a request that can be served, or an error that names the field,
what was got and what is accepted. Nothing behind the edge checks again.
"""

import math
import os
import random
from dataclasses import dataclass

from lengthwise_policy.sampling import SamplingParameters
from lengthwise_router.text.checkpoint import Checkpoint
from lengthwise_router.text.tokenization import check_vocabulary
from lengthwise_wire.convert import sampling_to_wire
from lengthwise_wire.errors import InvalidRequest, ModelNotFound, PromptTooLong
from lengthwise_wire.limits import (
    MAX_REQUEST_ID_CHARACTERS,
    MAX_STOP_STRING_CHARACTERS,
    MAX_STOP_STRINGS,
    MAX_STOP_TOKEN_IDS,
    MAX_TENANT_CHARACTERS,
    MAX_TOP_LOGPROBS,
    PRIORITIES,
)
from lengthwise_wire.v1 import common_pb2, inference_pb2

# Seeds and names need be no secret, only different in every router.
_random = random.Random(os.urandom(16))


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A request that passed the edge. Every choice is made: nothing is left to defaults."""

    request_id: str
    sampling: common_pb2.SamplingParams  # every field set
    top_logprobs: int | None
    stop_strings: tuple[str, ...]
    stop_token_ids: tuple[int, ...]  # the model's own, unless ignored, and the request's
    max_tokens: int | None  # None: as many as the context holds
    resumed_token_ids: tuple[int, ...]
    priority: int
    tenant: str
    conversation_returns: bool


def read_request(message: inference_pb2.GenerateRequest, model: Checkpoint) -> Request:
    """Checks everything but the prompt. Errors: InvalidRequest, ModelNotFound."""
    check_model(message.model, model)
    request_id = message.request_id or f"{_random.getrandbits(64):016x}"
    check_request_id(request_id)
    return Request(
        request_id=request_id,
        sampling=_sampling(message.sampling, model.default_sampling),
        top_logprobs=_top_logprobs(message),
        stop_strings=_stop_strings(message.stop) if message.stop.strings else (),
        stop_token_ids=_stop_token_ids(message.stop, model),
        max_tokens=_max_tokens(message),
        resumed_token_ids=_resumed(message, model) if message.HasField("resume") else (),
        priority=_priority(message),
        tenant=_tenant(message),
        conversation_returns=_conversation_returns(message),
    )


def check_request_id(request_id: str) -> None:
    """Errors: InvalidRequest."""
    if not 1 <= len(request_id) <= MAX_REQUEST_ID_CHARACTERS:
        raise InvalidRequest(
            f"request_id: got {len(request_id)} characters, expected 1 to"
            f" {MAX_REQUEST_ID_CHARACTERS}"
        )


def check_model(name: str, model: Checkpoint) -> None:
    """Errors: ModelNotFound unless the name is empty or the served model's."""
    if name and name != model.name:
        raise ModelNotFound(f"model: got {name!r}, this router serves {model.name!r}")


def fit(request: Request, num_prompt_tokens: int, model: Checkpoint) -> int:
    """How many tokens the request may generate in all, those resumed included.

    Errors: PromptTooLong.
    """
    room = model.context_length - num_prompt_tokens
    if room < 1:
        raise PromptTooLong(
            f"prompt: got {num_prompt_tokens} tokens; the context of {model.context_length} tokens"
            f" holds at most {model.context_length - 1} and one of output"
        )
    if request.max_tokens is None:
        max_tokens = room
    elif request.max_tokens > room:
        raise PromptTooLong(
            f"max_tokens: got {request.max_tokens} after a prompt of {num_prompt_tokens} tokens;"
            f" the context of {model.context_length} tokens leaves {room}"
        )
    else:
        max_tokens = request.max_tokens
    if len(request.resumed_token_ids) > max_tokens:
        raise InvalidRequest(
            f"resume.token_ids: got {len(request.resumed_token_ids)}, expected at most max_tokens,"
            f" which is {max_tokens}"
        )
    return max_tokens


def _sampling(
    params: common_pb2.SamplingParams, defaults: SamplingParameters
) -> common_pb2.SamplingParams:
    resolved = sampling_to_wire(defaults)
    resolved.MergeFrom(params)
    if not params.HasField("seed"):
        resolved.seed = _random.getrandbits(64)
    if params.ByteSize():
        _check_sampling(params)
    return resolved


def _check_sampling(params: common_pb2.SamplingParams) -> None:
    at_least_zero = "a finite number of at least 0"
    for name, accepted, is_accepted in (
        ("temperature", at_least_zero, params.temperature >= 0),
        ("top_p", "a number in (0, 1]", 0 < params.top_p <= 1),
        ("min_p", "a number in [0, 1]", 0 <= params.min_p <= 1),
        ("repetition_penalty", "a finite number above 0", params.repetition_penalty > 0),
        ("presence_penalty", "a number in [-2, 2]", -2 <= params.presence_penalty <= 2),
        ("frequency_penalty", "a number in [-2, 2]", -2 <= params.frequency_penalty <= 2),
    ):
        if params.HasField(name):
            value = getattr(params, name)
            if not is_accepted or not math.isfinite(value):
                raise InvalidRequest(f"sampling.{name}: got {value:g}, expected {accepted}")


def _top_logprobs(message: inference_pb2.GenerateRequest) -> int | None:
    if not message.HasField("top_logprobs"):
        return None
    if message.top_logprobs > MAX_TOP_LOGPROBS:
        raise InvalidRequest(
            f"top_logprobs: got {message.top_logprobs}, expected 0 to {MAX_TOP_LOGPROBS}"
        )
    return message.top_logprobs


def _max_tokens(message: inference_pb2.GenerateRequest) -> int | None:
    if not message.HasField("max_tokens"):
        return None
    if message.max_tokens < 1:
        raise InvalidRequest(f"max_tokens: got {message.max_tokens}, expected at least 1")
    return message.max_tokens


def _priority(message: inference_pb2.GenerateRequest) -> int:
    if message.priority not in PRIORITIES:
        raise InvalidRequest(
            f"priority: got {message.priority}, expected {PRIORITIES[0]} to {PRIORITIES[-1]}"
        )
    return message.priority


def _tenant(message: inference_pb2.GenerateRequest) -> str:
    tenant = message.tenant
    if len(tenant) > MAX_TENANT_CHARACTERS:
        raise InvalidRequest(
            f"tenant: got {len(tenant)} characters, at most {MAX_TENANT_CHARACTERS} are accepted"
        )
    if not tenant.isprintable():
        raise InvalidRequest(f"tenant: got {tenant!r}, expected printable characters")
    return tenant


def _conversation_returns(message: inference_pb2.GenerateRequest) -> bool:
    """Unless told: a conversation that has come back once will probably come back again."""
    if message.HasField("conversation_returns"):
        return message.conversation_returns
    messages = message.prompt.conversation.messages
    return any(turn.role == "assistant" for turn in reversed(messages))


def _stop_strings(stop: inference_pb2.StopConditions) -> tuple[str, ...]:
    if len(stop.strings) > MAX_STOP_STRINGS:
        raise InvalidRequest(
            f"stop.strings: got {len(stop.strings)}, at most {MAX_STOP_STRINGS} are accepted"
        )
    for string in stop.strings:
        if not 1 <= len(string) <= MAX_STOP_STRING_CHARACTERS:
            raise InvalidRequest(
                f"stop.strings: got one of {len(string)} characters, expected 1 to"
                f" {MAX_STOP_STRING_CHARACTERS}"
            )
    return tuple(stop.strings)


def _stop_token_ids(stop: inference_pb2.StopConditions, model: Checkpoint) -> tuple[int, ...]:
    own = () if stop.ignore_eos else model.eos_token_ids
    if not stop.token_ids:
        return own
    if len(stop.token_ids) > MAX_STOP_TOKEN_IDS:
        raise InvalidRequest(
            f"stop.token_ids: got {len(stop.token_ids)}, at most {MAX_STOP_TOKEN_IDS} are accepted"
        )
    check_vocabulary(list(stop.token_ids), model.vocab_size, "stop.token_ids")
    return (*own, *stop.token_ids)


def _resumed(message: inference_pb2.GenerateRequest, model: Checkpoint) -> tuple[int, ...]:
    token_ids = list(message.resume.token_ids)
    if not token_ids:
        return ()
    if not message.sampling.HasField("seed"):
        raise InvalidRequest(
            "sampling.seed: got none with resume, expected the seed of the request's first response"
        )
    check_vocabulary(token_ids, model.vocab_size, "resume.token_ids")
    return tuple(token_ids)

"""Prompts and options → requests, responses → values: the one place of the client that knows both
sides."""

import dataclasses
import uuid
from collections.abc import Mapping, Sequence
from typing import Any, Literal, cast

from google.protobuf.message import Message as ProtobufMessage

from lengthwise import _validation as valid
from lengthwise.explanation import ExplainedAttempt, ExplainedCandidate, ExplainedEnd, Explanation
from lengthwise.status import LatencyHistogram, ModelStatus, RouterStatus, WorkerQueue, WorkerState
from lengthwise.types import (
    Completion,
    FinishReason,
    Logprob,
    Message,
    Model,
    Options,
    Prompt,
    Sampling,
    Timings,
    TokenLogprobs,
    Usage,
)
from lengthwise_wire.constraints import check_constraint
from lengthwise_wire.errors import InternalError, InvalidRequest
from lengthwise_wire.limits import MAX_MESSAGES, REQUEST_NUMBERS
from lengthwise_wire.ranges import Range, shortest
from lengthwise_wire.sampling_parameters import SAMPLING_PARAMETERS
from lengthwise_wire.v1 import common_pb2, worker_pb2
from lengthwise_wire.v1 import inference_pb2 as pb

_FINISH_REASONS: dict[common_pb2.FinishReason, FinishReason] = {
    common_pb2.FINISH_REASON_STOP: "stop",
    common_pb2.FINISH_REASON_LENGTH: "length",
}

_ROLES: dict[worker_pb2.Role, Literal["prefill", "decode"]] = {
    worker_pb2.ROLE_PREFILL: "prefill",
    worker_pb2.ROLE_DECODE: "decode",
}


def generate_request(prompt: Prompt, options: Options) -> pb.GenerateRequest:
    """Errors: InvalidRequest naming the field; TypeError for an option that does not exist."""
    unknown = options.keys() - Options.__annotations__.keys()
    if unknown:
        raise TypeError(f"no such option: {', '.join(sorted(unknown))}")
    given = {name: value for name, value in options.items() if value is not None}
    request_id = options.get("request_id")
    returns = options.get("conversation_returns")
    salt = options.get("cache_salt")
    return pb.GenerateRequest(
        request_id=uuid.uuid4().hex if request_id is None else valid.check_request_id(request_id),
        model=_model_name(options.get("model")),
        prompt=wire_prompt(prompt),
        sampling=common_pb2.SamplingParams(**_checked(given, SAMPLING_PARAMETERS)),
        stop=_stop_conditions(options),
        constraint=_constraint(options),
        tenant=valid.check_tenant(options.get("tenant") or ""),
        cache_salt=None if salt is None else valid.check_cache_salt(salt),
        conversation_returns=(
            None if returns is None else valid.check_flag("conversation_returns", returns)
        ),
        **_checked(given, REQUEST_NUMBERS),
    )


def _constraint(options: Options) -> common_pb2.Constraint | None:
    kinds = ("response_format", "json_schema", "regex", "lark", "choice")
    given = {name: value for name in kinds if (value := options.get(name)) is not None}
    if not given:
        return None
    if len(given) > 1:
        raise InvalidRequest(f"constraint: got {' and '.join(given)}, expected one of them")
    ((kind, value),) = given.items()
    if kind == "response_format":
        kind, value = "json_schema", valid.schema_of(value)
    checked: Any = (
        common_pb2.Choice(texts=valid.check_choice(value))
        if kind == "choice"
        else valid.check_constraint_text(kind, value)
    )
    constraint = common_pb2.Constraint(**{kind: checked})
    check_constraint(constraint)
    return constraint


def parsed(completion: Completion, options: Options) -> Completion:
    """With what `response_format` makes of its text. Errors: those of the class's own checks, which
    may say more than its schema."""
    kind = options.get("response_format")
    if kind is None or completion.finish_reason != "stop":
        return completion
    return dataclasses.replace(completion, parsed=kind.model_validate_json(completion.text))


def tokenize_request(prompt: Prompt, model: str | None) -> pb.TokenizeRequest:
    """Errors: InvalidRequest."""
    return pb.TokenizeRequest(model=_model_name(model), prompt=wire_prompt(prompt))


def model_request(model: str | None) -> pb.GetModelRequest:
    """Errors: InvalidRequest."""
    return pb.GetModelRequest(model=_model_name(model))


def explain_request(request_id: str, tenant: str | None, model: str | None) -> pb.ExplainRequest:
    """Errors: InvalidRequest."""
    return pb.ExplainRequest(
        request_id=valid.check_request_id(request_id),
        tenant=valid.check_tenant(tenant or ""),
        model=_model_name(model),
    )


def wire_prompt(prompt: Prompt) -> pb.Prompt:
    """Errors: InvalidRequest, PromptTooLong."""
    if isinstance(prompt, str):
        valid.check_prompt_bytes(valid.utf8_bytes("prompt", prompt))
        return pb.Prompt(text=prompt)
    if not isinstance(prompt, Sequence) or isinstance(prompt, bytes):
        raise InvalidRequest(
            f"prompt: got {type(prompt).__name__}, expected str, token ids or Messages"
        )
    if not prompt:
        raise InvalidRequest("prompt: got an empty list, expected at least one token id or Message")
    if isinstance(prompt[0], Message | Mapping):
        return pb.Prompt(conversation=_conversation(cast(Sequence[object], prompt)))
    ids = valid.check_prompt_tokens(prompt)
    return pb.Prompt(token_ids=common_pb2.TokenIds(ids=ids))


def check_conversation(messages: object) -> None:
    """That it is no text, nor token ids, which no chat template would render. Errors:
    InvalidRequest."""
    if isinstance(messages, str) or (
        isinstance(messages, Sequence) and messages and isinstance(messages[0], int)
    ):
        raise InvalidRequest(
            f"messages: got {type(messages).__name__}, expected Messages, such as"
            ' [Message("user", "hi")]; generate continues a text'
        )


def _message(index: int, message: object) -> Message:
    """Errors: InvalidRequest."""
    if isinstance(message, Mapping):
        if set(message) != {"role", "content"}:
            raise InvalidRequest(
                f"prompt[{index}]: got a mapping of {', '.join(map(repr, message))[:100]}, expected"
                " 'role' and 'content'"
            )
        return Message(**message)
    if not isinstance(message, Message):
        raise InvalidRequest(
            f"prompt[{index}]: got {type(message).__name__}, expected Message as before"
        )
    return message


def _conversation(given: Sequence[object]) -> pb.Conversation:
    if len(given) > MAX_MESSAGES:
        raise InvalidRequest(f"prompt: got {len(given)} messages, expected at most {MAX_MESSAGES}")
    messages = [_message(index, message) for index, message in enumerate(given)]
    num_bytes = 0
    for index, message in enumerate(messages):
        if not valid.utf8_bytes(f"prompt[{index}].role", message.role):
            raise InvalidRequest(f"prompt[{index}].role: got '', expected \"user\" or the like")
        num_bytes += valid.utf8_bytes(f"prompt[{index}].content", message.content)
    valid.check_prompt_bytes(num_bytes)
    return pb.Conversation(
        messages=[
            pb.ChatMessage(role=message.role, content=message.content) for message in messages
        ]
    )


def _checked(given: Mapping[str, object], ranges: Mapping[str, Range]) -> dict[str, Any]:
    return {name: check.check(name, given[name]) for name, check in ranges.items() if name in given}


def _stop_conditions(options: Options) -> pb.StopConditions:
    strings = options.get("stop")
    if strings is None:
        strings = ()
    elif isinstance(strings, str):
        strings = (strings,)
    return pb.StopConditions(
        strings=valid.check_stop_strings(strings),
        token_ids=valid.check_stop_token_ids(options.get("stop_token_ids") or ()),
        ignore_eos=bool(options.get("ignore_eos")),
    )


def _model_name(model: str | None) -> str:
    valid.utf8_bytes("model", model or "")
    return model or ""


def finish_reason(value: common_pb2.FinishReason) -> FinishReason:
    """Errors: InternalError for a value this client does not know."""
    try:
        return _FINISH_REASONS[value]
    except KeyError:
        raise InternalError(
            f"the server ended with finish reason {value}, which this client does not know;"
            " expected stop or length"
        ) from None


def token_logprobs(message: common_pb2.TokenLogprobs) -> TokenLogprobs:
    top = tuple(Logprob(token_id=entry.token_id, logprob=entry.logprob) for entry in message.top)
    return TokenLogprobs(logprob=message.logprob, top=top)


def usage(message: pb.Usage) -> Usage:
    return Usage(**_fields(message))


def timings(message: pb.PhaseTimings) -> Timings:
    return Timings(**_fields(message))


def explanation(message: pb.ExplainResponse) -> Explanation:
    end = message.end
    attempts = (
        ExplainedAttempt(
            **{
                **_fields(attempt),
                "candidates": tuple(
                    ExplainedCandidate(**_fields(candidate)) for candidate in attempt.candidates
                ),
            }
        )
        for attempt in message.attempts
    )
    ended = ExplainedEnd(**{**_fields(end), "timings": timings(end.timings)})
    return Explanation(
        **{
            **_fields(message),
            "attempts": tuple(attempts),
            "end": ended if message.HasField("end") else None,
        }
    )


def model(message: pb.GetModelResponse) -> Model:
    return Model(
        name=message.model,
        context_length=message.context_length,
        vocab_size=message.vocab_size,
        eos_token_ids=tuple(message.eos_token_ids),
        has_chat_template=message.has_chat_template,
        fingerprint=message.model_fingerprint,
        default_sampling=_sampling(message.default_sampling),
        capacity_tokens=message.capacity_tokens,
    )


def status(message: pb.GetStatusResponse) -> RouterStatus:
    return RouterStatus(
        **{
            **_fields(message),
            "workers": tuple(map(_worker_state, message.workers)),
            "models": tuple(map(_model_status, message.models)),
        }
    )


def _model_status(message: pb.ModelStatus) -> ModelStatus:
    latencies = tuple(map(_latencies, message.latencies))
    return ModelStatus(**{**_fields(message), "latencies": latencies})


def _worker_state(message: pb.WorkerState) -> WorkerState:
    status = message.status
    return WorkerState(
        address=message.address,
        condition=message.condition,
        worker_id=status.worker_id,
        model=status.model,
        role=_ROLES.get(status.role, ""),
        length_class=status.length_class,
        running_requests=status.running_requests,
        queues=tuple(WorkerQueue(**_fields(queue)) for queue in status.queues),
        blocks_total=status.blocks_total,
        blocks_free=status.blocks_free,
        block_size=status.block_size,
        prompt_tokens_total=status.prompt_tokens_total,
        output_tokens_total=status.output_tokens_total,
    )


def _latencies(message: pb.LatencyHistogram) -> LatencyHistogram:
    bounds, counts = tuple(message.upper_bounds), tuple(message.counts)
    return LatencyHistogram(**{**_fields(message), "upper_bounds": bounds, "counts": counts})


def _sampling(params: common_pb2.SamplingParams) -> Sampling:
    values: dict[str, Any] = {
        field.name: getattr(params, field.name) for field in dataclasses.fields(Sampling)
    }
    for name, value in values.items():
        if isinstance(value, float):
            values[name] = shortest(value)
    return Sampling(**values)


def _fields(message: ProtobufMessage) -> dict[str, Any]:
    """Of messages whose fields have the names of a value's."""
    return {field.name: getattr(message, field.name) for field in message.DESCRIPTOR.fields}

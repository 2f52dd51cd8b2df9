"""Responses → values."""

import dataclasses
from typing import Any, Literal

from google.protobuf.message import Message as ProtobufMessage

from lengthwise.explanation import ExplainedAttempt, ExplainedCandidate, ExplainedEnd, Explanation
from lengthwise.status import LatencyHistogram, ModelStatus, RouterStatus, WorkerQueue, WorkerState
from lengthwise.types import (
    Completion,
    FinishReason,
    Logprob,
    Model,
    Options,
    Sampling,
    Timings,
    TokenLogprobs,
    Usage,
)
from lengthwise_wire.errors import InternalError
from lengthwise_wire.ranges import shortest
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


def parsed(completion: Completion, options: Options) -> Completion:
    """With what `response_format` makes of the text of each choice. Errors: those of the class's
    own checks, which may say more than its schema."""
    kind = options.get("response_format")
    if kind is None:
        return completion
    others = tuple(parsed(other, options) for other in completion.others)
    is_whole = completion.finish_reason == "stop"
    made = kind.model_validate_json(completion.text) if is_whole else None
    return dataclasses.replace(completion, parsed=made, others=others)


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

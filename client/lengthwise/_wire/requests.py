"""Prompts and options → requests."""

import uuid
from collections.abc import Mapping, Sequence
from typing import Any, cast

from lengthwise._wire import validation as valid
from lengthwise._wire.conversations import add_tools, wire_conversation
from lengthwise.types import Message, Options, Prompt
from lengthwise_wire.constraints import check_constraint
from lengthwise_wire.errors import InvalidRequest
from lengthwise_wire.limits import REQUEST_NUMBERS
from lengthwise_wire.ranges import Range
from lengthwise_wire.sampling_parameters import SAMPLING_PARAMETERS
from lengthwise_wire.v1 import common_pb2
from lengthwise_wire.v1 import inference_pb2 as pb


def generate_request(prompt: Prompt, options: Options) -> pb.GenerateRequest:
    """Errors: InvalidRequest naming the field; TypeError for an option that does not exist."""
    unknown = options.keys() - Options.__annotations__.keys()
    if unknown:
        raise TypeError(f"no such option: {', '.join(sorted(unknown))}")
    given = {name: value for name, value in options.items() if value is not None}
    request_id = options.get("request_id")
    returns = options.get("conversation_returns")
    salt = options.get("cache_salt")
    request = pb.GenerateRequest(
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
    add_tools(request, options)
    return request


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
        return pb.Prompt(conversation=wire_conversation(cast(Sequence[object], prompt)))
    ids = valid.check_prompt_tokens(prompt)
    return pb.Prompt(token_ids=common_pb2.TokenIds(ids=ids))


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

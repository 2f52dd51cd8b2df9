"""What the endpoints that generate have in common: fields → the wire's request."""

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError

from lengthwise_router.frontends.http.errors import HttpError
from lengthwise_router.frontends.http.fields import Endpoint, served
from lengthwise_wire.errors import InvalidRequest
from lengthwise_wire.limits import (
    MAX_PROMPT_BYTES,
    REQUEST_NUMBERS,
    check_cache_salt,
    check_num_stop_token_ids,
    check_stop_strings,
    check_tenant,
)
from lengthwise_wire.ranges import TOKEN_ID, UINT32_MAX, UINT64_MAX, Whole
from lengthwise_wire.sampling_parameters import SAMPLING_PARAMETERS
from lengthwise_wire.v1 import common_pb2, inference_pb2

MAX_CHOICES: Final = 128
"""Of one call, of all its prompts together."""

MAX_COPIED_BYTES: Final = 4 * MAX_PROMPT_BYTES
"""Of the prompts of all choices of one call together."""

MAX_USER_CHARACTERS: Final = 128
"""More are not recorded."""

CHOICES: Final = Whole(1, MAX_CHOICES)

SEED: Final = Whole(-(2**63), UINT64_MAX)
"""OpenAI's are signed, ours are not: a negative one counts from the end."""


def _carried(value: str) -> str:
    """Errors: ValueError, which becomes pydantic's."""
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise ValueError("input should be Unicode text without lone surrogates") from None
    return value


Text = Annotated[str, AfterValidator(_carried)]
"""What UTF-8 can carry: JSON can escape what it cannot."""


class StreamOptions(BaseModel):
    """Of a stream of events."""

    model_config = ConfigDict(strict=True, extra="forbid")

    include_usage: bool | None = None
    include_obfuscation: bool | None = None
    continuous_usage_stats: bool | None = None  # vLLM's, which load generators send


class CallFields(BaseModel):
    """The fields of every endpoint; what values they accept is checked where the wire's request is
    made."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)

    model: Text
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    min_tokens: int | None = None
    seed: int | None = None
    stop: Any = None
    stop_token_ids: list[int] | None = None
    ignore_eos: bool | None = None
    stream: bool | None = None
    stream_options: Any = None
    user: Text | None = None
    priority: int | None = None
    tenant: Text | None = None
    cache_salt: Text | None = None

    @property
    def num_choices(self) -> int:
        """Of each prompt."""
        return 1


class ChoiceFields(CallFields):
    """Those of chat and text completions."""

    max_tokens: int | None = None
    n: int | None = None
    stream_options: StreamOptions | None = None

    @property
    def include_usage(self) -> bool:
        return self.stream_options is not None and bool(self.stream_options.include_usage)

    @property
    def num_choices(self) -> int:
        """Of each prompt."""
        return 1 if self.n is None else CHOICES.check("n", self.n)


Body = TypeVar("Body", bound=CallFields)


def read_options(kind: type[Body], endpoint: Endpoint, body: Mapping[str, Any]) -> Body:
    """Errors: HttpError, InvalidRequest."""
    if not body.get("model"):
        raise HttpError(400, "you must provide a model parameter", param="model")
    try:
        options = kind.model_validate(served(endpoint, body))
    except ValidationError as error:
        raise _refusal(error) from None
    if options.stream_options is not None and not options.stream:
        raise InvalidRequest("stream_options: only allowed when stream is true")
    return options


def wire_requests(
    options: CallFields,
    prompts: Sequence[inference_pb2.Prompt],
    *,
    request_id: str,
    max_tokens: int | None,
    top_logprobs: int | None,
    constraint: common_pb2.Constraint | None = None,
) -> list[inference_pb2.GenerateRequest]:
    """One for each prompt, with `num_choices` choices. Errors: InvalidRequest."""
    count = len(prompts) * options.num_choices
    if count > MAX_CHOICES:
        raise InvalidRequest(
            f"n: got {options.num_choices} for each of {len(prompts)} prompts, expected at most"
            f" {MAX_CHOICES} choices in all"
        )
    num_bytes = options.num_choices * sum(prompt.ByteSize() for prompt in prompts)
    if count > 1 and num_bytes > MAX_COPIED_BYTES:
        raise InvalidRequest(
            f"n: got {num_bytes} bytes of prompts in {count} choices, expected at most"
            f" {MAX_COPIED_BYTES}; send them one by one"
        )
    shared = _shared(options, max_tokens=max_tokens, top_logprobs=top_logprobs)
    if options.num_choices > 1:
        shared.n = options.num_choices
    if options.seed is not None:
        shared.sampling.seed = SEED.check("seed", options.seed) % 2**64
    if constraint is not None:
        shared.constraint.CopyFrom(constraint)
    requests = []
    for index, prompt in enumerate(prompts):
        request = inference_pb2.GenerateRequest()
        request.CopyFrom(shared)
        first = index * options.num_choices
        request.request_id = f"{request_id}-{first}" if first else request_id
        request.prompt.CopyFrom(prompt)
        requests.append(request)
    return requests


def text(field: str, value: object) -> str:
    """What UTF-8 can carry. Errors: InvalidRequest."""
    if not isinstance(value, str):
        raise InvalidRequest(f"{field}: got {shown(value)}, expected a string")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise InvalidRequest(
            f"{field}: got a lone surrogate at character {error.start}, expected Unicode text"
        ) from None
    return value


def token_ids(field: str, values: Sequence[Any]) -> Sequence[int]:
    """Errors: InvalidRequest naming the first that is none."""
    if (
        not set(map(type, values)) <= {int}
        or min(values, default=0) < 0
        or max(values, default=0) > UINT32_MAX
    ):
        for index, value in enumerate(values):
            TOKEN_ID.check(f"{field}[{index}]", value if type(value) is int else shown(value))
    return values


def json_text(field: str, value: object) -> str:
    """Errors: InvalidRequest."""
    try:
        return json.dumps(value, ensure_ascii=False)
    except RecursionError:
        raise InvalidRequest(f"{field}: it is nested too deep") from None


def shown(value: object) -> str:
    """A value of any size, in a message."""
    if isinstance(value, list | dict):
        return "an array" if isinstance(value, list) else "an object"
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 10**30:
        return "a number of too many digits"
    known: dict[object, str] = {None: "null", True: "true", False: "false"}
    if isinstance(value, bool) or value is None:
        return known[value]
    told = repr(value[:60]) if isinstance(value, str) else repr(value)
    return told.encode(errors="replace").decode()


def _shared(
    options: CallFields, *, max_tokens: int | None, top_logprobs: int | None
) -> inference_pb2.GenerateRequest:
    given: dict[str, Any] = {
        name: value
        for name in SAMPLING_PARAMETERS
        if name not in ("seed", "logit_bias") and (value := getattr(options, name)) is not None
    }
    if options.logit_bias is not None:
        given["logit_bias"] = _logit_bias(options.logit_bias)
    asked = (("max_tokens", max_tokens), ("top_logprobs", top_logprobs))
    numbers: dict[str, Any] = {
        name: REQUEST_NUMBERS[name].check(name, value)
        for name, value in (*asked, ("priority", options.priority))
        if value is not None
    }
    salt = options.cache_salt
    return inference_pb2.GenerateRequest(
        model=options.model,
        sampling=common_pb2.SamplingParams(
            **{name: SAMPLING_PARAMETERS[name].check(name, value) for name, value in given.items()}
        ),
        stop=_stop_conditions(options),
        tenant=check_tenant(options.tenant or ""),
        cache_salt=None if salt is None else check_cache_salt(salt),
        **numbers,
    )


def _stop_conditions(options: CallFields) -> inference_pb2.StopConditions:
    given = options.stop
    strings = [] if given is None else [given] if isinstance(given, str) else given
    if not isinstance(strings, list):
        raise InvalidRequest(f"stop: got {shown(given)}, expected a string or an array of them")
    ids = options.stop_token_ids or []
    check_num_stop_token_ids("stop_token_ids", ids)
    return inference_pb2.StopConditions(
        strings=check_stop_strings(
            "stop", [text(f"stop[{index}]", one) for index, one in enumerate(strings[:1000])]
        ),
        token_ids=token_ids("stop_token_ids", ids),
        ignore_eos=bool(options.ignore_eos),
    )


def _logit_bias(given: Mapping[str, float]) -> dict[int, float]:
    """JSON's keys are strings."""
    for name in given:
        if not (name.isascii() and name.isdecimal() and len(name) <= 10):
            raise InvalidRequest(f"logit_bias: got key {shown(name)}, expected a token id")
    return {int(name): number for name, number in given.items()}


def _refusal(error: ValidationError) -> HttpError:
    first = error.errors(include_url=False, include_context=False)[0]
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"])[
        1:101
    ]
    path = shown(path)[1:-1]
    if first["type"] == "missing":
        return HttpError(
            400, f"Missing required parameter: '{path}'.", param=path,
            code="missing_required_parameter",
        )  # fmt: skip
    reason = first["msg"][:1].lower() + first["msg"][1:200]
    return HttpError(400, f"{path}: got {shown(first['input'])}: {reason}", param=path)

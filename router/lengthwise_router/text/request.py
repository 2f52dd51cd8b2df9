"""A client's message → a request that can be served, or an error that names the field, what was got
and what is accepted. Nothing behind this checks again."""

import dataclasses
import functools
import os
import random
from collections.abc import Sequence
from dataclasses import dataclass

from lengthwise_policy.sampling import SamplingParameters
from lengthwise_router.tenants import Tenant
from lengthwise_router.text.checkpoint import Checkpoint
from lengthwise_router.text.tokenization import check_context, check_vocabulary
from lengthwise_router.text.tools.answer_format import AnswerFormat
from lengthwise_router.text.tools.tool_use import ToolUse, asked_tool_use
from lengthwise_wire.capabilities import (
    CACHE_SALT,
    GRAMMAR,
    adapter_capability,
    needed_capabilities,
)
from lengthwise_wire.constraints import check_constraint
from lengthwise_wire.convert import sampling_to_wire
from lengthwise_wire.errors import InvalidRequest, PromptTooLong
from lengthwise_wire.limits import (
    MAX_MESSAGES,
    REQUEST_NUMBERS,
    check_cache_salt,
    check_num_stop_token_ids,
    check_request_id,
    check_stop_strings,
)
from lengthwise_wire.sampling_parameters import check_sampling
from lengthwise_wire.v1 import common_pb2, inference_pb2

NO_FORMAT = AnswerFormat()

# Seeds and names need be no secret, only different in every router.
_random = random.Random(os.urandom(16))


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A checked request. Every choice is made: nothing is left to defaults."""

    request_id: str
    sampling: common_pb2.SamplingParams  # every field set
    needs: frozenset[str]  # capabilities that its workers must have
    top_logprobs: int | None
    stop_strings: tuple[str, ...]
    stop_token_ids: tuple[int, ...]  # the model's own, unless ignored, and the request's
    max_tokens: int | None  # None: as many as fit
    resumed_token_ids: tuple[int, ...]
    priority: int
    tenant: str
    # Empty: prefixes are shared with other requests that have none. Never logged.
    cache_salt: bytes = dataclasses.field(repr=False)
    conversation_returns: bool
    constraint: common_pb2.Constraint | None
    is_chat: bool
    has_tools: bool
    adapter: str = ""
    """Key of the one that it is computed with; empty: none."""
    tool_use: ToolUse | None = None
    """Of one whose answer is told in parts."""
    num_choices: int = 1
    choice: int = 0
    """Which of them this is."""
    further_resumed: tuple[tuple[int, ...], ...] = ()
    """`resumed_token_ids` of the other choices; empty: none of them has any."""

    def choice_of(self, choice: int) -> "Request":
        """As a request of its own."""
        sampling = common_pb2.SamplingParams()
        sampling.CopyFrom(self.sampling)
        sampling.seed = (self.sampling.seed + choice) % 2**64
        return dataclasses.replace(
            self,
            request_id=_choice_id(self.request_id, choice),
            sampling=sampling,
            resumed_token_ids=self.further_resumed[choice - 1] if self.further_resumed else (),
            choice=choice,
        )


def read_request(
    message: inference_pb2.GenerateRequest,
    model: Checkpoint,
    tenant: Tenant,
    answers: AnswerFormat = NO_FORMAT,
    adapter: str = "",
) -> Request:
    """Checks everything but the prompt and the model's name; what the message asks of tools becomes
    its constraint, and the prompt's tools. Errors: InvalidRequest."""
    tool_use = _tool_use(message, answers) if message.HasField("parts") else None
    sampling = _sampling(message.sampling, model)
    request_id = message.request_id or f"{_random.getrandbits(64):016x}"
    chosen = check_cache_salt(message.cache_salt) if message.HasField("cache_salt") else ""
    cache_salt = tenant.salt(chosen)
    needs = needed_capabilities(sampling)
    constraint = _constraint(message, sampling, model)
    if constraint is not None:
        needs |= {GRAMMAR}
    if adapter:
        needs |= {adapter_capability(adapter)}
    n = num_choices(message)
    if n > 1:
        check_request_id(_choice_id(request_id, n - 1))
    resumed = _resumed(message, n, model) if message.HasField("resume") else ((),)
    return Request(
        request_id=check_request_id(request_id),
        sampling=sampling,
        needs=needs | {CACHE_SALT} if cache_salt else needs,
        top_logprobs=_number(message, "top_logprobs"),
        stop_strings=tuple(check_stop_strings("stop.strings", message.stop.strings)),
        stop_token_ids=_stop_token_ids(message.stop, model),
        max_tokens=_number(message, "max_tokens"),
        resumed_token_ids=resumed[0],
        priority=tenant.granted(REQUEST_NUMBERS["priority"].check("priority", message.priority)),
        tenant=tenant.name,
        cache_salt=cache_salt,
        conversation_returns=_conversation_returns(message),
        constraint=constraint,
        is_chat=message.prompt.HasField("conversation"),
        has_tools=bool(message.prompt.conversation.tools),
        adapter=adapter,
        tool_use=tool_use,
        num_choices=n,
        further_resumed=resumed[1:],
    )


def _tool_use(message: inference_pb2.GenerateRequest, answers: AnswerFormat) -> ToolUse:
    use = asked_tool_use(message, answers)
    required = use.constraint(answers)
    if required is not None:
        message.constraint.CopyFrom(required)
    if use.mode == "none":
        message.prompt.conversation.ClearField("tools")
    return use


def num_choices(message: inference_pb2.GenerateRequest) -> int:
    """How many completions are asked for. Errors: InvalidRequest."""
    n = _number(message, "n")
    return 1 if n is None else n


def fit(request: Request, num_prompt_tokens: int, model: Checkpoint) -> int:
    """How many tokens the request may generate in all as far as the context goes, those resumed
    included; an open request may have to do with less, see `Generation.limit`.

    Errors: PromptTooLong.
    """
    check_context(num_prompt_tokens, model.context_length, "prompt")
    room = model.context_length - num_prompt_tokens
    max_tokens = room if request.max_tokens is None else request.max_tokens
    if max_tokens > room:
        raise PromptTooLong(
            f"max_tokens: got {max_tokens} after a prompt of {num_prompt_tokens} tokens;"
            f" the context of {model.context_length} tokens leaves {room}"
        )
    for field, number in (
        ("sampling.min_tokens", request.sampling.min_tokens),
        ("resume.token_ids", len(request.resumed_token_ids)),
    ):
        if number > max_tokens:
            raise InvalidRequest(
                f"{field}: got {number}, expected at most max_tokens, which is {max_tokens}"
            )
    return max_tokens


def _sampling(params: common_pb2.SamplingParams, model: Checkpoint) -> common_pb2.SamplingParams:
    check_sampling(params)
    if params.logit_bias:
        check_vocabulary(list(params.logit_bias), model.vocab_size, "sampling.logit_bias")
    resolved = common_pb2.SamplingParams()
    resolved.CopyFrom(_defaults(model.default_sampling))
    resolved.MergeFrom(params)
    if not params.HasField("seed"):
        resolved.seed = _random.getrandbits(64)
    return resolved


@functools.cache
def _defaults(sampling: SamplingParameters) -> common_pb2.SamplingParams:
    """Made once, for making it costs as much as all else here; to be copied."""
    return sampling_to_wire(sampling)


def _number(message: inference_pb2.GenerateRequest, name: str) -> int | None:
    if not message.HasField(name):
        return None
    return REQUEST_NUMBERS[name].check(name, getattr(message, name))


def _constraint(
    message: inference_pb2.GenerateRequest, sampling: common_pb2.SamplingParams, model: Checkpoint
) -> common_pb2.Constraint | None:
    if not message.HasField("constraint"):
        return None
    check_constraint(message.constraint)
    if not model.tokens_are_bytes or not model.eos_token_ids:
        raise InvalidRequest(
            f"constraint: not with model {model.name!r}, whose tokens do not stand for bytes or"
            " have no end of sequence among them"
        )
    if message.stop.ignore_eos:
        raise InvalidRequest("stop.ignore_eos: got true with a constraint, which says what ends it")
    if sampling.min_tokens:
        raise InvalidRequest(
            f"sampling.min_tokens: got {sampling.min_tokens} with a constraint, expected 0"
        )
    alone = common_pb2.Constraint()  # without the message around it, which has up to 5 MiB
    alone.CopyFrom(message.constraint)
    return alone


def _conversation_returns(message: inference_pb2.GenerateRequest) -> bool:
    """Unless stated: a conversation that has come back once will probably come back again."""
    if message.HasField("conversation_returns"):
        return message.conversation_returns
    messages = message.prompt.conversation.messages
    if len(messages) > MAX_MESSAGES:
        return False  # it will be refused
    return any(turn.role == "assistant" for turn in reversed(messages))


def _stop_token_ids(stop: inference_pb2.StopConditions, model: Checkpoint) -> tuple[int, ...]:
    own = () if stop.ignore_eos else model.eos_token_ids
    if not stop.token_ids:
        return own
    check_num_stop_token_ids("stop.token_ids", stop.token_ids)
    check_vocabulary(list(stop.token_ids), model.vocab_size, "stop.token_ids")
    return (*own, *stop.token_ids)


def _choice_id(request_id: str, choice: int) -> str:
    return f"{request_id}-{choice}"


def _resumed(
    message: inference_pb2.GenerateRequest, n: int, model: Checkpoint
) -> tuple[tuple[int, ...], ...]:
    """Of each choice, or of the first alone."""
    further = message.resume.further_choices
    if len(further) not in (0, n - 1):
        raise InvalidRequest(
            f"resume.further_choices: got {len(further)}, expected none or {n - 1}, one"
            " for each choice but the first"
        )
    fields = [("resume.token_ids", message.resume.token_ids)]
    fields += [
        (f"resume.further_choices[{index}].ids", choice.ids) for index, choice in enumerate(further)
    ]
    if any(ids for _, ids in fields) and not message.sampling.HasField("seed"):
        raise InvalidRequest(
            "sampling.seed: got none with resume, expected the seed of the request's first response"
        )
    return tuple(_resumed_ids(field, ids, model) for field, ids in fields)


def _resumed_ids(field: str, ids: Sequence[int], model: Checkpoint) -> tuple[int, ...]:
    if not ids:
        return ()
    check_context(len(ids), model.context_length, field)
    token_ids = tuple(ids)
    check_vocabulary(token_ids, model.vocab_size, field)
    return token_ids

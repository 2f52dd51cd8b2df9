"""A request's message, as the services of both roles read it."""

import asyncio
from typing import Any

from lengthwise_checkpoint.spec import ModelSpec
from lengthwise_engine.runner.sampler import SamplingState
from lengthwise_engine.sampling.grammar import GrammarState
from lengthwise_policy.kv.salts import block_salt
from lengthwise_wire import limits
from lengthwise_wire.convert import sampling_from_wire
from lengthwise_wire.errors import InvalidRequest, LengthwiseError
from lengthwise_wire.sampling_parameters import check_sampling
from lengthwise_wire.v1 import decode_pb2, prefill_pb2

RequestMessage = prefill_pb2.PrefillRequest | decode_pb2.ReserveRequest

MAX_SALT_BYTES = 64
"""Twice what routers of this version send."""


MAX_ID_CHARACTERS = 256
"""Of the names that routers give; theirs have half as many at most."""

MAX_GRAMMAR_CHARACTERS = 8 * limits.MAX_CONSTRAINT_BYTES
"""A constraint within JSON, where a character may take six."""

MAX_STOP_TOKEN_IDS = 2 * limits.MAX_STOP_TOKEN_IDS
"""A request's own and those of its model."""


def check_request(request: RequestMessage, spec: ModelSpec) -> None:
    """Routers have checked this; a worker does not rely on it. Errors: InvalidRequest."""
    if len(request.request_id) > MAX_ID_CHARACTERS:
        raise InvalidRequest(
            f"request_id: got {len(request.request_id)} characters, expected at most"
            f" {MAX_ID_CHARACTERS}"
        )
    num_tokens = len(request.token_ids)
    if not 1 <= num_tokens <= spec.context_length:
        raise InvalidRequest(f"token_ids: got {num_tokens}, expected 1 to {spec.context_length}")
    highest = max(request.token_ids)
    if highest >= spec.vocab_size:
        raise InvalidRequest(f"token_ids: got {highest}, expected below {spec.vocab_size}")
    if not 1 <= request.num_prompt_tokens <= num_tokens:
        raise InvalidRequest(
            f"num_prompt_tokens: got {request.num_prompt_tokens}, expected 1 to {num_tokens}"
        )
    if len(request.stop_token_ids) > MAX_STOP_TOKEN_IDS:
        raise InvalidRequest(
            f"stop_token_ids: got {len(request.stop_token_ids)}, expected at most"
            f" {MAX_STOP_TOKEN_IDS}"
        )
    if len(request.cache_salt) > MAX_SALT_BYTES:
        raise InvalidRequest(
            f"cache_salt: got {len(request.cache_salt)} bytes, expected at most {MAX_SALT_BYTES}"
        )
    if len(request.grammar) > MAX_GRAMMAR_CHARACTERS:
        raise InvalidRequest(
            f"grammar: got {len(request.grammar)} characters, expected at most"
            f" {MAX_GRAMMAR_CHARACTERS}"
        )
    limits.REQUEST_NUMBERS["top_logprobs"].check("top_logprobs", request.top_logprobs)
    check_sampling(request.sampling)


def salt_of(request: RequestMessage, model_fingerprint: str) -> bytes:
    """What the names of its blocks begin with."""
    return block_salt(model_fingerprint, request.cache_salt, request.adapter)


def sampling_state(
    request: RequestMessage, token_ids: list[int], grammar: GrammarState | None
) -> SamplingState:
    """`token_ids`: a list of those in the message, which grows with the sequence; `grammar`: of the
    request's."""
    return SamplingState(
        sampling=sampling_from_wire(request),
        token_ids=token_ids,
        num_prompt_tokens=request.num_prompt_tokens,
        grammar=grammar,
    )


def refuse(answer: asyncio.Future[Any], error: LengthwiseError) -> None:
    """Ends a call that waits for its answer with an error; without effect once it has one."""
    if not answer.done():
        answer.set_exception(error)
        # The call may be gone: an exception that nothing retrieves is logged as a defect.
        answer.exception()

"""A request's fields, checked before anything is sent: what only Python values can get wrong, then
the limits of the wire.

Cheap checks alone: what needs the model (its context, its vocabulary, its template) is the
server's. Errors of all checks: InvalidRequest naming the field.
"""

import json
import operator
from collections.abc import Mapping, Sequence

from lengthwise_wire import limits
from lengthwise_wire.errors import InvalidRequest, PromptTooLong
from lengthwise_wire.ranges import TOKEN_ID, UINT32_MAX


def utf8_bytes(field: str, text: object) -> int:
    """The size of a text on the wire. Errors: InvalidRequest for what UTF-8 cannot carry."""
    if not isinstance(text, str):
        raise InvalidRequest(f"{field}: got {type(text).__name__}, expected str")
    try:
        return len(text.encode("utf-8"))
    except UnicodeEncodeError as error:
        raise InvalidRequest(
            f"{field}: got a lone surrogate ({text[error.start]!r}) at character {error.start},"
            " expected text that UTF-8 can carry; text.encode('utf-8', 'replace').decode() is"
        ) from error


def check_prompt_bytes(num_bytes: int) -> None:
    """Errors: InvalidRequest when there are none, PromptTooLong when there are too many."""
    if num_bytes == 0:
        raise InvalidRequest("prompt: got no text, expected at least one character")
    if num_bytes > limits.MAX_PROMPT_BYTES:
        raise PromptTooLong(
            f"prompt: got {num_bytes} bytes of text, expected at most {limits.MAX_PROMPT_BYTES}"
        )


def check_token_ids(field: str, ids: Sequence[object]) -> list[int]:
    """Errors: InvalidRequest naming the first id that is no uint32."""
    try:
        numbers = [operator.index(value) for value in ids]  # type: ignore[arg-type]
    except TypeError:
        numbers = []
    if len(numbers) == len(ids) and (
        not numbers or (min(numbers) >= 0 and max(numbers) <= UINT32_MAX)
    ):
        return numbers
    return [TOKEN_ID.check(f"{field}[{index}]", value) for index, value in enumerate(ids)]


def check_prompt_tokens(ids: Sequence[object]) -> list[int]:
    """Errors: InvalidRequest, PromptTooLong."""
    if len(ids) > limits.MAX_PROMPT_TOKENS:
        raise PromptTooLong(
            f"prompt: got {len(ids)} token ids, expected at most {limits.MAX_PROMPT_TOKENS}"
        )
    return check_token_ids("prompt", ids)


def check_stop_token_ids(ids: Sequence[object]) -> list[int]:
    limits.check_num_stop_token_ids("stop_token_ids", ids)
    return check_token_ids("stop_token_ids", ids)


def check_stop_strings(strings: Sequence[str]) -> Sequence[str]:
    for index, text in enumerate(strings):
        utf8_bytes(f"stop[{index}]", text)
    return limits.check_stop_strings("stop", strings)


def check_tenant(tenant: str) -> str:
    utf8_bytes("tenant", tenant)
    return limits.check_tenant(tenant)


def check_cache_salt(salt: str) -> str:
    utf8_bytes("cache_salt", salt)
    return limits.check_cache_salt(salt)


def check_constraint_text(kind: str, text: object) -> str:
    """A schema may be given as what its JSON says."""
    if kind == "json_schema" and isinstance(text, Mapping):
        try:
            text = json.dumps(text, allow_nan=False)
        except (TypeError, ValueError, RecursionError) as error:
            raise InvalidRequest(f"json_schema: got what is no JSON: {error}") from error
    utf8_bytes(kind, text)
    return str(text)


def schema_of(kind: object) -> str:
    """Of a pydantic model, which this package does not need to know."""
    if not (hasattr(kind, "model_json_schema") and hasattr(kind, "model_validate_json")):
        raise InvalidRequest(
            f"response_format: got {kind!r:.80}, expected a pydantic model; json_schema takes a"
            " schema"
        )
    return json.dumps(kind.model_json_schema())


def check_choice(texts: object) -> list[str]:
    if isinstance(texts, str) or not isinstance(texts, Sequence):
        raise InvalidRequest(f"choice: got {type(texts).__name__}, expected a list of texts")
    for index, text in enumerate(texts):
        utf8_bytes(f"choice[{index}]", text)
    return [str(text) for text in texts]


def check_flag(field: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise InvalidRequest(f"{field}: got {value!r}, expected True or False")
    return value


def check_request_id(request_id: str) -> str:
    utf8_bytes("request_id", request_id)
    return limits.check_request_id(request_id)

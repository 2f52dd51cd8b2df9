"""The ranges of a request's fields, checked before anything is sent.

Cheap checks alone: what needs the model (its context, its vocabulary, its template) is the
server's. Every message reads «field: got …, expected …».
"""

import math
import numbers
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from lengthwise_wire.errors import InvalidRequest, PromptTooLong

UINT32_MAX = 2**32 - 1
UINT64_MAX = 2**64 - 1

MAX_PROMPT_BYTES = 4 << 20
"""Of UTF-8, in all messages of a conversation together."""

MAX_PROMPT_TOKENS = 1 << 20
"""Of a prompt given as token ids; 5 MiB on the wire at most."""

MAX_MESSAGES = 4096
"""Of a conversation."""

MAX_STOP_STRINGS = 16
MAX_STOP_CHARACTERS = 256
MAX_STOP_TOKEN_IDS = 256
MAX_REQUEST_ID_CHARACTERS = 128
MAX_TENANT_CHARACTERS = 128


class Range(Protocol):
    """The accepted values of a field."""

    def check(self, field: str, value: object) -> float | int: ...


@dataclass(frozen=True, slots=True)
class Real:
    """low <= value <= high, finite; with `above`, low < value."""

    low: float
    high: float
    above: bool = False

    def check(self, field: str, value: object) -> float:
        number = math.nan
        if isinstance(value, numbers.Real) and not isinstance(value, bool):
            number = float(value)
        too_low = number <= self.low if self.above else number < self.low
        if not math.isfinite(number) or too_low or number > self.high:
            raise InvalidRequest(f"{field}: got {value!r}, expected {self}")
        return number

    def __str__(self) -> str:
        if self.high == math.inf:
            return f"a finite number {'above' if self.above else 'of at least'} {self.low:g}"
        return f"a number in {'(' if self.above else '['}{self.low:g}, {self.high:g}]"


@dataclass(frozen=True, slots=True)
class Whole:
    """low <= value <= high."""

    low: int
    high: int

    def check(self, field: str, value: object) -> int:
        try:
            number = operator.index(value)  # type: ignore[arg-type]  # that is the question
        except TypeError:
            number = None
        if number is None or isinstance(value, bool) or not self.low <= number <= self.high:
            raise InvalidRequest(
                f"{field}: got {value!r}, expected an integer in [{self.low}, {self.high}]"
            )
        return number


SAMPLING: dict[str, Range] = {
    "temperature": Real(0, 100),
    "top_k": Whole(0, UINT32_MAX),
    "top_p": Real(0, 1, above=True),
    "min_p": Real(0, 1),
    "repetition_penalty": Real(0, math.inf, above=True),
    "presence_penalty": Real(-2, 2),
    "frequency_penalty": Real(-2, 2),
    "seed": Whole(0, UINT64_MAX),
}
"""Fields of SamplingParams."""

LIMITS: dict[str, Range] = {
    "max_tokens": Whole(1, UINT32_MAX),
    "top_logprobs": Whole(0, 20),
    "priority": Whole(-100, 100),
}
"""Fields of GenerateRequest."""


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
    if num_bytes > MAX_PROMPT_BYTES:
        raise PromptTooLong(
            f"prompt: got {num_bytes} bytes of text, expected at most {MAX_PROMPT_BYTES}"
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
    one = Whole(0, UINT32_MAX)
    return [one.check(f"{field}[{index}]", value) for index, value in enumerate(ids)]


def check_prompt_tokens(ids: Sequence[object]) -> list[int]:
    """Errors: InvalidRequest, PromptTooLong."""
    if len(ids) > MAX_PROMPT_TOKENS:
        raise PromptTooLong(
            f"prompt: got {len(ids)} token ids, expected at most {MAX_PROMPT_TOKENS}"
        )
    return check_token_ids("prompt", ids)


def check_stop_token_ids(ids: Sequence[object]) -> list[int]:
    """Errors: InvalidRequest."""
    if len(ids) > MAX_STOP_TOKEN_IDS:
        raise InvalidRequest(
            f"stop_token_ids: got {len(ids)}, expected at most {MAX_STOP_TOKEN_IDS}"
        )
    return check_token_ids("stop_token_ids", ids)


def check_stop_strings(strings: Sequence[str]) -> Sequence[str]:
    """Errors: InvalidRequest."""
    if len(strings) > MAX_STOP_STRINGS:
        raise InvalidRequest(
            f"stop: got {len(strings)} strings, expected at most {MAX_STOP_STRINGS}"
        )
    for index, text in enumerate(strings):
        utf8_bytes(f"stop[{index}]", text)
        if not 1 <= len(text) <= MAX_STOP_CHARACTERS:
            raise InvalidRequest(
                f"stop[{index}]: got {len(text)} characters, expected 1 to {MAX_STOP_CHARACTERS}"
            )
    return strings


def check_tenant(tenant: str) -> str:
    """Errors: InvalidRequest."""
    utf8_bytes("tenant", tenant)
    if len(tenant) > MAX_TENANT_CHARACTERS:
        raise InvalidRequest(
            f"tenant: got {len(tenant)} characters, expected at most {MAX_TENANT_CHARACTERS}"
        )
    if not tenant.isprintable():
        raise InvalidRequest(f"tenant: got {tenant!r}, expected printable characters")
    return tenant


def check_flag(field: str, value: object) -> bool:
    """Errors: InvalidRequest."""
    if not isinstance(value, bool):
        raise InvalidRequest(f"{field}: got {value!r}, expected True or False")
    return value


def check_request_id(request_id: str) -> str:
    """Errors: InvalidRequest."""
    utf8_bytes("request_id", request_id)
    if not 1 <= len(request_id) <= MAX_REQUEST_ID_CHARACTERS:
        raise InvalidRequest(
            f"request_id: got {len(request_id)} characters,"
            f" expected 1 to {MAX_REQUEST_ID_CHARACTERS}"
        )
    return request_id

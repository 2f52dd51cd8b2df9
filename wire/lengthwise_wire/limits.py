"""What a request may hold at most. SDK and router check the same limits with the same messages.

Errors of all checks: InvalidRequest.
"""

from collections.abc import Sequence

from lengthwise_wire.errors import InvalidRequest
from lengthwise_wire.ranges import UINT32_MAX, Whole

MAX_MESSAGE_BYTES = 5 << 20
"""On every channel. A text of the most bytes that are accepted needs 4 MiB, and so do a million
token ids at most. gRPC refuses more by the length that it comes with, before it takes any of it."""

MAX_PROMPT_BYTES = 4 << 20
"""UTF-8 bytes of prompt text, in all messages of a conversation together; checked before anything
is tokenised. A million-token context needs about as many."""

MAX_PROMPT_TOKENS = 1 << 20
"""Of a prompt given as token ids; 4 MiB on the wire at most."""

MAX_MESSAGES = 4096
"""Messages of one conversation."""

MAX_TOOLS = 128
"""Functions that a model may call, as in OpenAI's API."""

MAX_REQUEST_ID_CHARACTERS = 128

MAX_TENANT_CHARACTERS = 128

MAX_CACHE_SALT_CHARACTERS = 256

MAX_STOP_STRINGS = 16

MAX_STOP_STRING_CHARACTERS = 256
"""Bounds the text that is held back while a stop string may be about to complete."""

MAX_STOP_TOKEN_IDS = 256

MAX_CONSTRAINT_BYTES = 1 << 16
"""Of a schema, regular expression or grammar, or of all choices together."""

MAX_CHOICES = 1024

MAX_SAMPLES = 128
"""Completions of one prompt in one request."""

MAX_SAMPLED_TOKENS = 4 * MAX_PROMPT_TOKENS
"""Of the prompts of all samples of a request together, each of which is sent to a worker."""

REQUEST_NUMBERS = {
    "max_tokens": Whole(1, UINT32_MAX),
    "n": Whole(1, MAX_SAMPLES),
    "top_logprobs": Whole(0, 20),
    "priority": Whole(-100, 100),
}
"""Fields of GenerateRequest."""


def check_request_id(request_id: str) -> str:
    if not 1 <= len(request_id) <= MAX_REQUEST_ID_CHARACTERS:
        raise InvalidRequest(
            f"request_id: got {len(request_id)} characters,"
            f" expected 1 to {MAX_REQUEST_ID_CHARACTERS}"
        )
    return _printable("request_id", request_id)


def check_tenant(tenant: str) -> str:
    if len(tenant) > MAX_TENANT_CHARACTERS:
        raise InvalidRequest(
            f"tenant: got {len(tenant)} characters, expected at most {MAX_TENANT_CHARACTERS}"
        )
    return _printable("tenant", tenant)


def check_cache_salt(salt: str) -> str:
    """An empty one is refused: a secret that was left empty protects nothing."""
    if not 1 <= len(salt) <= MAX_CACHE_SALT_CHARACTERS:
        raise InvalidRequest(
            f"cache_salt: got {len(salt)} characters, expected 1 to {MAX_CACHE_SALT_CHARACTERS}"
        )
    return salt


def _printable(field: str, name: str) -> str:
    """Names go into logs: there, other characters would end a line, or command a terminal."""
    if not name.isprintable():
        raise InvalidRequest(f"{field}: got {name!r}, expected printable characters")
    return name


def check_stop_strings(field: str, strings: Sequence[str]) -> Sequence[str]:
    if len(strings) > MAX_STOP_STRINGS:
        raise InvalidRequest(
            f"{field}: got {len(strings)} strings, expected at most {MAX_STOP_STRINGS}"
        )
    for index, text in enumerate(strings):
        if not 1 <= len(text) <= MAX_STOP_STRING_CHARACTERS:
            raise InvalidRequest(
                f"{field}[{index}]: got {len(text)} characters,"
                f" expected 1 to {MAX_STOP_STRING_CHARACTERS}"
            )
    return strings


def check_num_stop_token_ids(field: str, token_ids: Sequence[object]) -> None:
    if len(token_ids) > MAX_STOP_TOKEN_IDS:
        raise InvalidRequest(
            f"{field}: got {len(token_ids)}, expected at most {MAX_STOP_TOKEN_IDS}"
        )

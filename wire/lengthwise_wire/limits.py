"""What the edge accepts at most, in one place; clients are told these numbers when they exceed
them."""

MAX_PROMPT_BYTES = 4 << 20
"""UTF-8 bytes of prompt text, checked before anything is tokenised. A million-token context needs
about as many."""

MAX_REQUEST_ID_CHARACTERS = 128

MAX_TENANT_CHARACTERS = 128

PRIORITIES = range(-100, 101)

MAX_TOP_LOGPROBS = 20

MAX_STOP_STRINGS = 16

MAX_STOP_STRING_CHARACTERS = 256
"""Bounds the text that is held back while a stop string may be about to complete."""

MAX_STOP_TOKEN_IDS = 256

MAX_MESSAGES = 4096
"""Messages of one conversation."""

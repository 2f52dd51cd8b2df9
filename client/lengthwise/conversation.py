"""Conversations: what they are made of, and what a model says of functions in them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCall:
    """A function that a model called. `arguments`: a JSON object, as text."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCallDelta:
    """What a model has written further of its call number `index`. The first has its id and name.

    While it writes nobody knows whether it will be a call: what is, comes whole in `tool_calls`.
    """

    index: int
    arguments: str = ""
    id: str | None = None
    name: str | None = None


@dataclass(frozen=True, slots=True)
class Message:
    """A turn of a conversation. Roles are usually "system", "user", "assistant" and "tool"; the
    model's chat template decides which it accepts."""

    role: str
    content: str | None
    """None only beside `tool_calls`."""
    tool_calls: tuple[ToolCall, ...] = ()
    """Of an assistant."""
    tool_call_id: str | None = None
    """Of a tool: the call that it answers."""
    reasoning_content: str | None = None
    """Of an assistant: what it thought before."""


Conversation = Sequence[Message] | Sequence[Mapping[str, Any]]
"""Messages, or mappings of their fields, calls as OpenAI's API has them or as `ToolCall`."""

Prompt = str | Sequence[int] | Conversation
"""Text; or token ids, computed as they are; or a conversation, rendered by the model's chat
template."""

"""The process in which chat templates run: Conversation in, the prompt's text out."""

import json
from collections.abc import Callable
from typing import TypedDict

from lengthwise_router.text.sandbox.chat import ChatTemplate, TemplateRefuses
from lengthwise_router.text.sandbox.conversations import arguments_of, messages_of, tools_of
from lengthwise_router.text.sandbox.process import serve
from lengthwise_wire.v1 import inference_pb2


class TemplateSetup(TypedDict):
    """What to compile, and the names that templates expect."""

    template: str
    special_tokens: dict[str, str]
    max_characters: int  # of what it renders


def _set_up(body: bytes) -> Callable[[bytes], bytes]:
    setup: TemplateSetup = json.loads(body)
    template = ChatTemplate(**setup)

    def render(body: bytes) -> bytes:
        conversation = inference_pb2.Conversation.FromString(body)
        messages, tools = messages_of(conversation), tools_of(conversation)
        try:
            return template.render(messages, tools, arguments_of(conversation)).encode()
        except UnicodeEncodeError as error:
            raise TemplateRefuses(f"what it renders is no text: {error}") from error

    return render


if __name__ == "__main__":
    serve(_set_up)

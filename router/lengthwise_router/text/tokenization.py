"""Prompts → token ids: checked, rendered where they are conversations, and encoded. What takes a
while is done elsewhere, so that one caller's prompt never holds up another's tokens."""

import asyncio
from collections.abc import Sequence

from lengthwise_router.text.checkpoint import Checkpoint
from lengthwise_router.text.encoder import TextEncoder
from lengthwise_router.text.sandbox.renderer import Renderer
from lengthwise_router.text.sandbox.template_process import TemplateSetup
from lengthwise_wire.errors import InvalidRequest, PromptTooLong
from lengthwise_wire.limits import MAX_MESSAGES, MAX_PROMPT_BYTES, MAX_TOOLS
from lengthwise_wire.v1 import common_pb2, inference_pb2

LONG_CONVERSATION_BYTES = 1 << 15
"""Larger conversations are rendered in a process of their own, which shorter ones do not wait
for."""


class PromptEncoder:
    """Renders, checks and encodes the prompts of one model. Life: construct, `start`, `run` for
    ever; `close`."""

    def __init__(self, checkpoint: Checkpoint, *, threads: int, max_waiting: int) -> None:
        self._name = checkpoint.name
        self._vocab_size = checkpoint.vocab_size
        self._context_length = checkpoint.context_length
        self._texts = TextEncoder(
            checkpoint.tokenizer,
            vocab_size=checkpoint.vocab_size,
            context_length=checkpoint.context_length,
            threads=threads,
        )
        self._short: Renderer | None = None
        self._long: Renderer | None = None
        if checkpoint.chat_template is not None:
            setup = TemplateSetup(
                template=checkpoint.chat_template,
                special_tokens=dict(checkpoint.special_tokens),
                max_characters=MAX_PROMPT_BYTES,
            )
            self._short, self._long = (Renderer(setup, max_waiting) for _ in range(2))

    @property
    def has_chat_template(self) -> bool:
        return self._short is not None

    async def start(self) -> None:
        """Errors: ConfigError when the chat template does not compile."""
        if self._short is not None:
            await self._short.start()

    async def run(self) -> None:
        """Until cancelled."""
        if self._short is None or self._long is None:
            await asyncio.get_running_loop().create_future()
            return
        await asyncio.gather(self._short.run(), self._long.run())

    def encode(self, prompt: inference_pb2.Prompt) -> "list[int] | asyncio.Future[list[int]]":
        """The prompt's token ids, or a future of them where they take a while.

        Errors, the future's too: InvalidRequest for a prompt that cannot be one, Overloaded when
        too many prompts wait.
        """
        match prompt.WhichOneof("kind"):
            case "text":
                text = _checked_text(prompt.text, "prompt.text")
                return self._texts.encode(text, "prompt.text", special=True)
            case "token_ids":
                return self._checked_ids(prompt.token_ids)
            case "conversation":
                rendered = self._rendered(prompt.conversation)
                return asyncio.ensure_future(self._encoded(rendered))
            case _:
                raise InvalidRequest(
                    "prompt: got none, expected one of text, token_ids, conversation"
                )

    async def close(self) -> None:
        self._texts.close()
        for renderer in (self._short, self._long):
            if renderer is not None:
                await renderer.close()

    async def _encoded(self, rendered: asyncio.Future[str]) -> list[int]:
        # Templates write the special tokens themselves.
        token_ids = self._texts.encode(await rendered, "prompt.conversation", special=False)
        return token_ids if isinstance(token_ids, list) else await token_ids

    def _checked_ids(self, token_ids: common_pb2.TokenIds) -> list[int]:
        if not token_ids.ids:
            raise InvalidRequest("prompt.token_ids: got none, expected at least one")
        check_context(len(token_ids.ids), self._context_length, "prompt.token_ids")
        ids = list(token_ids.ids)
        check_vocabulary(ids, self._vocab_size, "prompt.token_ids")
        return ids

    def _rendered(self, conversation: inference_pb2.Conversation) -> asyncio.Future[str]:
        if self._short is None or self._long is None:
            raise InvalidRequest(
                f"prompt.conversation: model {self._name!r} has no chat template; send"
                " prompt.text or prompt.token_ids"
            )
        num_messages, num_bytes = len(conversation.messages), conversation.ByteSize()
        if not 1 <= num_messages <= MAX_MESSAGES:
            raise InvalidRequest(
                f"prompt.conversation: got {num_messages} messages, expected 1 to {MAX_MESSAGES}"
            )
        if len(conversation.tools) > MAX_TOOLS:
            raise InvalidRequest(
                f"prompt.conversation.tools: got {len(conversation.tools)}, expected at most"
                f" {MAX_TOOLS}"
            )
        _check_size(num_bytes, "prompt.conversation")
        renderer = self._short if num_bytes <= LONG_CONVERSATION_BYTES else self._long
        return renderer.render(conversation)


def check_context(num_tokens: int, context_length: int, field: str) -> None:
    """Errors: PromptTooLong when so many tokens leave no room for one of output."""
    if num_tokens >= context_length:
        raise PromptTooLong(
            f"{field}: got {num_tokens} tokens; the context of {context_length} tokens holds at"
            f" most {context_length - 1} and one of output"
        )


def check_vocabulary(token_ids: Sequence[int], vocab_size: int, field: str) -> None:
    """Errors: InvalidRequest when an id is none of the vocabulary's."""
    highest = max(token_ids)
    if highest >= vocab_size:
        raise InvalidRequest(
            f"{field}: got {highest}, expected ids below the vocabulary's size {vocab_size}"
        )


def _checked_text(text: str, field: str) -> str:
    if not text:
        raise InvalidRequest(f"{field}: got an empty text, expected at least one character")
    _check_size(len(text), field)
    if not text.isascii():
        _check_size(len(text.encode()), field)
    return text


def _check_size(num_bytes: int, field: str) -> None:
    if num_bytes > MAX_PROMPT_BYTES:
        raise InvalidRequest(
            f"{field}: got {num_bytes} bytes, at most {MAX_PROMPT_BYTES} are accepted; shorten it"
            " or send token ids"
        )

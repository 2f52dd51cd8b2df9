"""Conversations → prompt text, by the model's chat template in its sandbox."""

import asyncio
import json

from lengthwise_router.text.sandbox.process import Refusal
from lengthwise_router.text.sandbox.sandbox import Sandbox
from lengthwise_router.text.sandbox.template_process import TemplateSetup
from lengthwise_runtime.config import ConfigError
from lengthwise_wire.v1 import inference_pb2


class Renderer(Sandbox):
    """A chat template."""

    def __init__(self, setup: TemplateSetup, max_waiting: int) -> None:
        super().__init__(
            "lengthwise_router.text.sandbox.template_process",
            json.dumps(setup).encode(),
            field="prompt.conversation",
            program="the model's chat template",
            max_waiting=max_waiting,
        )

    async def start(self) -> None:
        """Errors: ConfigError when the template does not compile."""
        try:
            await super().start()
        except Refusal as refusal:
            raise ConfigError(f"the chat template does not compile: {refusal}") from refusal

    def render(self, conversation: inference_pb2.Conversation) -> asyncio.Future[str]:
        """The prompt's text, or InvalidRequest when the template refuses the conversation.

        Errors: Overloaded.
        """
        return self.ask(conversation.SerializeToString())

"""Conversations on their way through the process that renders them, one after the other.

A process that takes too long or ends is replaced when the next conversation comes.
"""

import asyncio
import contextlib
import json
import logging
import sys
from asyncio.subprocess import PIPE, Process

from lengthwise_router.text.sandbox.chat import TemplateRefuses
from lengthwise_router.text.sandbox.template_process import (
    CPU_SECONDS,
    DONE,
    LENGTH,
    MEMORY_BYTES,
    TemplateSetup,
)
from lengthwise_runtime.config import ConfigError
from lengthwise_wire.errors import InternalError, InvalidRequest, Overloaded
from lengthwise_wire.v1 import inference_pb2

logger = logging.getLogger(__name__)

ANSWER_SECONDS = 5.0
"""The process bounds its own CPU time, which a busy machine does not shorten; this is for one that
is frozen."""

START_SECONDS = 20.0
"""Importing takes 0.2 s where nothing else runs."""

MAX_WAITING_BYTES = 32 << 20
"""Of the conversations that wait."""


class _ProcessEnded(Exception):
    pass


class Renderer:
    """A chat template. Life: construct, `start`, `run` for ever; `close`."""

    def __init__(self, setup: TemplateSetup, max_waiting: int) -> None:
        self._setup = setup
        self._max_waiting = max_waiting
        self._waiting: asyncio.Queue[tuple[bytes, asyncio.Future[str]]] = asyncio.Queue()
        self._waiting_bytes = 0
        self._process: Process | None = None

    async def start(self) -> None:
        """Errors: ConfigError when the template does not compile."""
        try:
            await self._started()
        except TemplateRefuses as error:
            raise ConfigError(f"the chat template does not compile: {error}") from error

    def render(self, conversation: inference_pb2.Conversation) -> asyncio.Future[str]:
        """The prompt's text, or InvalidRequest when the template refuses the conversation.

        Errors: Overloaded.
        """
        body = conversation.SerializeToString()
        if (
            self._waiting.qsize() >= self._max_waiting
            or self._waiting_bytes + len(body) > MAX_WAITING_BYTES
        ):
            raise Overloaded(
                f"{self._waiting.qsize()} conversations of {self._waiting_bytes} bytes wait to be"
                f" rendered, which is the limit"
            )
        rendered: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._waiting_bytes += len(body)
        self._waiting.put_nowait((body, rendered))
        return rendered

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            body, rendered = await self._waiting.get()
            self._waiting_bytes -= len(body)
            if rendered.done():
                continue  # its caller is gone
            try:
                text = await self._answer(body)
            except (InvalidRequest, InternalError) as error:
                if not rendered.done():
                    rendered.set_exception(error)
            else:
                if not rendered.done():
                    rendered.set_result(text)

    async def close(self) -> None:
        """Kills the process."""
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.communicate()  # to the end of its pipes

    async def _answer(self, body: bytes) -> str:
        try:
            process = await self._started()
            return await _ask(process, body, ANSWER_SECONDS)
        except TemplateRefuses as error:
            raise InvalidRequest(
                f"prompt.conversation: the model's chat template refuses it: {error}"
            ) from error
        except (_ProcessEnded, TimeoutError) as error:
            await self.close()
            took = f"more than {CPU_SECONDS:g} s or {MEMORY_BYTES >> 20} MiB"
            logger.warning("the chat template took %s for %d bytes", took, len(body))
            raise InvalidRequest(
                f"prompt.conversation: the model's chat template takes {took} for it"
            ) from error

    async def _started(self) -> Process:
        if self._process is not None and self._process.returncode is None:
            return self._process
        try:
            process = self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-m", "lengthwise_router.text.sandbox.template_process"),
                stdin=PIPE,
                stdout=PIPE,
            )
            await _ask(process, json.dumps(self._setup).encode(), START_SECONDS)
        except (_ProcessEnded, OSError, TimeoutError) as error:
            await self.close()
            raise InternalError("the process that renders chat templates does not start") from error
        return process


async def _ask(process: Process, body: bytes, seconds: float) -> str:
    """Sends a frame; the text of the answer. Errors: TemplateRefuses."""
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        async with asyncio.timeout(seconds):
            process.stdin.write(LENGTH.pack(len(body)) + body)
            await process.stdin.drain()
            (length,) = LENGTH.unpack(await process.stdout.readexactly(LENGTH.size))
            answer = await process.stdout.readexactly(length)
    except (ConnectionError, asyncio.IncompleteReadError) as error:
        raise _ProcessEnded from error
    text = answer[1:].decode()
    if answer[:1] != DONE:
        raise TemplateRefuses(text)
    return text

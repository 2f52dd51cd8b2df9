"""Questions on their way through a process that is bounded in time and memory, one after the other.

A process that takes too long or ends is replaced when the next question comes.
"""

import asyncio
import contextlib
import logging
import sys
from asyncio.subprocess import PIPE, Process

from lengthwise_router.text.sandbox.process import (
    CPU_SECONDS,
    DONE,
    LENGTH,
    MEMORY_BYTES,
    Refusal,
)
from lengthwise_wire.errors import InternalError, InvalidRequest, Overloaded

logger = logging.getLogger(__name__)

ANSWER_SECONDS = 5.0
"""The process bounds its own CPU time, which a busy machine does not shorten; this is for one that
is frozen."""

START_SECONDS = 20.0
"""Importing takes 0.2 s where nothing else runs."""

MAX_WAITING_BYTES = 32 << 20
"""Of the questions that wait."""


class _ProcessEnded(Exception):
    pass


class Sandbox:
    """A program for one field of requests. Life: construct, `start` or the first question, `run`
    for ever; `close`."""

    def __init__(
        self, module: str, setup: bytes, *, field: str, program: str, max_waiting: int
    ) -> None:
        """`module` calls `process.serve`; `field` and `program` are for messages."""
        self._module = module
        self._setup = setup
        self._field = field
        self._program = program
        self._max_waiting = max_waiting
        self._waiting: asyncio.Queue[tuple[bytes, asyncio.Future[str]]] = asyncio.Queue()
        self._waiting_bytes = 0
        self._process: Process | None = None

    async def start(self) -> None:
        """Errors: Refusal when the program refuses its set-up; InternalError."""
        await self._started()

    def ask(self, question: bytes) -> asyncio.Future[str]:
        """The program's answer, or InvalidRequest when it refuses or takes too much.

        Errors: Overloaded.
        """
        num_waiting, num_bytes = self._waiting.qsize(), self._waiting_bytes
        if num_waiting >= self._max_waiting or num_bytes + len(question) > MAX_WAITING_BYTES:
            raise Overloaded(
                f"{self._field}: {num_waiting} of {num_bytes} bytes wait for {self._program}, which"
                " is the limit"
            )
        answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._waiting_bytes += len(question)
        self._waiting.put_nowait((question, answer))
        return answer

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            question, answer = await self._waiting.get()
            self._waiting_bytes -= len(question)
            if answer.done():
                continue  # its caller is gone
            try:
                text = await self._answer(question)
            except (InvalidRequest, InternalError) as error:
                if not answer.done():
                    answer.set_exception(error)
            else:
                if not answer.done():
                    answer.set_result(text)

    async def close(self) -> None:
        """Kills the process."""
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.communicate()  # to the end of its pipes

    async def _answer(self, question: bytes) -> str:
        try:
            process = await self._started()
            return await _ask(process, question, ANSWER_SECONDS)
        except Refusal as refusal:
            raise InvalidRequest(
                f"{self._field}: {self._program} refuses it: {refusal}"
            ) from refusal
        except (_ProcessEnded, TimeoutError) as error:
            await self.close()
            took = f"more than {CPU_SECONDS:g} s or {MEMORY_BYTES >> 20} MiB"
            logger.warning("%s took %s for %d bytes", self._program, took, len(question))
            raise InvalidRequest(f"{self._field}: {self._program} takes {took} for it") from error

    async def _started(self) -> Process:
        if self._process is not None and self._process.returncode is None:
            return self._process
        try:
            process = self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-m", self._module), stdin=PIPE, stdout=PIPE
            )
            await _ask(process, self._setup, START_SECONDS)
        except (_ProcessEnded, OSError, TimeoutError) as error:
            await self.close()
            raise InternalError(f"the process of {self._program} does not start") from error
        return process


async def _ask(process: Process, body: bytes, seconds: float) -> str:
    """Sends a frame; the text of the answer. Errors: Refusal."""
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
        raise Refusal(text)
    return text

"""The process in which chat templates run: they are programs from elsewhere, so their time and
memory are bounded, and nothing but text goes in and out.

Frames are a length of four bytes and a body. The first one in is a `TemplateSetup` as JSON, each
further one a Conversation; each one out is `DONE` or `REFUSED`, and a text in UTF-8.
"""

import json
import os
import resource
import signal
import struct
import sys
from typing import BinaryIO, TypedDict

from lengthwise_router.text.sandbox.chat import ChatTemplate, TemplateRefuses
from lengthwise_wire.v1 import inference_pb2

LENGTH = struct.Struct(">I")
DONE, REFUSED = b"d", b"r"

CPU_SECONDS = 1.0
MEMORY_BYTES = 256 << 20
"""Of the whole process. Python, jinja2 and protobuf take 60 MiB of it."""

MAX_REASON = 1_000
"""Characters: a template may raise an exception of any length."""


class TemplateSetup(TypedDict):
    """What to compile, and the names that templates expect."""

    template: str
    special_tokens: dict[str, str]
    max_characters: int  # of what it renders


def main() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    # Answers go to the pipe that stdout was; nothing else may write there.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    questions = sys.stdin.buffer
    setup: TemplateSetup = json.loads(_read(questions))
    template: ChatTemplate | None = None
    body = b""
    while True:
        # Its default action ends the process, whatever the template is in the middle of.
        signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
        try:
            if template is None:
                template = ChatTemplate(**setup)
                answer = DONE
            else:
                answer = DONE + _rendered(template, body)
        except TemplateRefuses as refusal:
            answer = REFUSED + str(refusal)[:MAX_REASON].encode(errors="replace")
        except MemoryError:
            answer = REFUSED + b"it takes more than %d MiB" % (MEMORY_BYTES >> 20)
        signal.setitimer(signal.ITIMER_PROF, 0)
        answers.write(LENGTH.pack(len(answer)) + answer)
        answers.flush()
        if template is None:
            return
        body = _read(questions)


def _rendered(template: ChatTemplate, body: bytes) -> bytes:
    conversation = inference_pb2.Conversation.FromString(body)
    messages = [{"role": one.role, "content": one.content} for one in conversation.messages]
    try:
        return template.render(messages).encode()
    except UnicodeEncodeError as error:
        raise TemplateRefuses(f"what it renders is no text: {error}") from error


def _read(questions: BinaryIO) -> bytes:
    """The next frame; where the router has ended, so does this process."""
    head = questions.read(LENGTH.size)
    if len(head) < LENGTH.size:
        sys.exit()
    return questions.read(LENGTH.unpack(head)[0])


if __name__ == "__main__":
    main()

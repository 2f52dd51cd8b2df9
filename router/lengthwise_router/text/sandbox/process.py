"""The inside of a sandbox: a process whose time and memory are bounded; nothing but frames goes in
and out.

Frames are a length of four bytes and a body. The first one in sets the program up, each further one
is a question; each one out is `DONE` or `REFUSED`, and a text in UTF-8.
"""

import os
import resource
import signal
import struct
import sys
from collections.abc import Callable
from typing import BinaryIO

LENGTH = struct.Struct(">I")
DONE, REFUSED = b"d", b"r"

ALONE, AFTER_REASONING = b"a", b"t"
"""What a question to the grammar compiler begins with."""

CPU_SECONDS = 1.0
"""For each frame."""

MEMORY_BYTES = 256 << 20
"""Of the whole process. Python, jinja2 and protobuf take 60 MiB of it."""

MAX_REASON = 1_000
"""Characters: a program may refuse with a text of any length."""


class Refusal(Exception):
    """What was sent in is refused; the message says why."""


def serve(set_up: Callable[[bytes], Callable[[bytes], bytes]]) -> None:
    """Answers every question with what `set_up` returned, until the other end is closed. Both may
    raise Refusal; a set-up that does ends the process."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    # Answers go to the pipe that stdout was; nothing else may write there.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    questions = sys.stdin.buffer
    program: Callable[[bytes], bytes] | None = None
    body = _read(questions)
    while True:
        # Its default action ends the process, whatever the program is in the middle of.
        signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
        try:
            if program is None:
                program = set_up(body)
                answer = DONE
            else:
                answer = DONE + program(body)
        except Refusal as refusal:
            answer = REFUSED + str(refusal)[:MAX_REASON].encode(errors="replace")
        except MemoryError:
            answer = REFUSED + b"it takes more than %d MiB" % (MEMORY_BYTES >> 20)
        signal.setitimer(signal.ITIMER_PROF, 0)
        answers.write(LENGTH.pack(len(answer)) + answer)
        answers.flush()
        if program is None:
            return
        body = _read(questions)


def _read(questions: BinaryIO) -> bytes:
    """The next frame; where the router has ended, so does this process."""
    head = questions.read(LENGTH.size)
    if len(head) < LENGTH.size:
        sys.exit()
    return questions.read(LENGTH.unpack(head)[0])

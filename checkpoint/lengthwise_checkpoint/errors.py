"""What is wrong with a checkpoint, in one line that begins with the file.

CheckpointError      the checkpoint is missing, damaged or contradicts itself
└─ UnsupportedModel  it is sound, but needs something Lengthwise does not implement
"""

from typing import Final

MAX_TEXT: Final = 1000
"""Characters of a message, which may repeat what a file says."""


class CheckpointError(Exception):
    """A checkpoint cannot be served as it lies on disk. One line, whatever a file says."""

    def __init__(self, message: str) -> None:
        text = message if len(message) <= MAX_TEXT else f"{message[:MAX_TEXT]}…"
        super().__init__("".join(letter if letter.isprintable() else "\ufffd" for letter in text))


class UnsupportedModel(CheckpointError):
    """A sound checkpoint needs an architecture or option that is not implemented."""

"""What a command cannot do."""

from pathlib import Path


class CommandError(Exception):
    """The message is one line for the person who typed the command: what, got, expected, remedy."""


def check_target(option: str, path: Path | None) -> None:
    """What is to be written can be. Errors: CommandError."""
    if path is not None and (path.is_dir() or not path.parent.is_dir()):
        raise CommandError(f"{option}: got {path}, expected a file in a folder that exists")

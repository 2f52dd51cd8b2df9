"""What a command cannot do."""


class CommandError(Exception):
    """The message is one line for the person who typed the command: what, got, expected, remedy."""

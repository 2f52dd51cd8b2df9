"""What a policy refuses, as exceptions that callers map to their own statuses.

These are answers a correct caller has to expect. Misuse of a state machine (two batches
at once, a block freed twice) is a bug in the caller and raises RuntimeError or ValueError instead.
"""


class PolicyError(Exception):
    """Base of all refusals; the text has what, got, expected and remedy."""


class QueueFull(PolicyError):
    """The bounded queue has no place: try elsewhere or later."""


class NeverFits(PolicyError):
    """Not even an empty worker could hold the request: do not retry here."""


class DuplicateRequest(PolicyError):
    """The id is in use, or its blocks have not all returned yet."""


class UnknownRequest(PolicyError):
    """The id is not known, or not in the state that the call needs."""


class NoCandidates(PolicyError):
    """No worker, or no compatible pair of workers, may take the request."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class LacksCapability(NoCandidates):
    """No worker of a role can do what the request needs: all are of older versions."""

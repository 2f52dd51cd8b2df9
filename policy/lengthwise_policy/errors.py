"""What a policy refuses, as exceptions that callers map to their own statuses.

These are answers a correct caller has to expect. Misuse of a state machine (two batches
at once, a block freed twice) is a bug in the caller and raises RuntimeError or ValueError instead.

    PolicyError
    ├─ QueueFull          the bounded queue has no place: try elsewhere or later
    ├─ NeverFits          not even an empty worker could hold the request: do not retry here
    ├─ DuplicateRequest   the id is in use, or its blocks have not all returned yet
    ├─ UnknownRequest     the id is not known, or not in the state the call needs
    └─ NoCandidates       no worker, or no compatible pair of workers, may take the request
       └─ LacksCapability  no worker can do what the request needs: all are of older versions
"""


class PolicyError(Exception):
    """Base of all refusals; the text has what, got, expected and remedy."""


class QueueFull(PolicyError):
    """The queue is at its limit."""


class NeverFits(PolicyError):
    """The request needs more blocks than the pool has in all."""


class DuplicateRequest(PolicyError):
    """A request of this id is still held."""


class UnknownRequest(PolicyError):
    """No request of this id is in the state that the call needs."""


class NoCandidates(PolicyError):
    """No worker may take the request."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class LacksCapability(NoCandidates):
    """No worker of a role can do what the request needs."""

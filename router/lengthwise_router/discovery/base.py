"""What a source of worker addresses is, and why it may fail."""

from collections.abc import AsyncIterator
from typing import Literal, Protocol

DiscoveryFailure = Literal["forbidden", "refused", "unreachable", "malformed"]
"""Why the workers could not be asked for: a fixed set, it becomes a metric label."""


class Discovery(Protocol):
    """A source of worker addresses."""

    def addresses(self) -> AsyncIterator[frozenset[str]]:
        """The addresses (host:port) of all workers, at first and on every change. Never ends."""

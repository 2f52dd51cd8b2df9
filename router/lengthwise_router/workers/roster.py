"""Which addresses discovery proposes, and which workers are there, whatever they serve."""

from dataclasses import dataclass, field

from lengthwise_router.workers.worker import Worker


@dataclass(slots=True)
class Roster:
    """Changed by the fleet alone."""

    addresses: frozenset[str] = frozenset()
    """host:port, as discovery proposes them."""
    workers: dict[str, Worker] = field(default_factory=dict)
    """By address: also those that discovery has withdrawn and that are connected still."""

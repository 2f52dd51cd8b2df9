"""What a request's failed attempts say about the paths that are left to it.

A path is a prefill worker with a decode worker, or either alone: a decode worker that computes the
prompt itself, or a prefill worker where one token is all. A worker that failed is blamed itself.
Where KV did not come across, only the link between two workers is: each may have been why, and each
can still serve without the other.
"""

from dataclasses import dataclass
from enum import IntEnum

from lengthwise_policy.types import WorkerId

Link = tuple[WorkerId, WorkerId]
"""(prefill worker, decode worker)."""


class Standing(IntEnum):
    """Of a path, for one request; lower is better."""

    CLEAN = 0
    DOUBTFUL = 1  # one of its workers is an end of another link that failed
    FAILED = 2  # it failed, or one of its workers did


@dataclass(frozen=True, slots=True)
class Blame:
    """Workers and links that failed one request."""

    workers: frozenset[WorkerId] = frozenset()
    links: frozenset[Link] = frozenset()

    @staticmethod
    def of(*worker_ids: WorkerId) -> "Blame":
        return Blame(workers=frozenset(worker_ids))

    def __bool__(self) -> bool:
        return bool(self.workers or self.links)

    def __or__(self, other: "Blame") -> "Blame":
        return Blame(self.workers | other.workers, self.links | other.links)

    @property
    def doubtful(self) -> frozenset[WorkerId]:
        """The ends of the links that failed."""
        return frozenset(worker_id for link in self.links for worker_id in link)

    def standing(self, prefill: WorkerId | None, decode: WorkerId | None) -> Standing:
        """Of the path over these workers."""
        if prefill in self.workers or decode in self.workers or (prefill, decode) in self.links:
            return Standing.FAILED
        if prefill is None or decode is None:
            return Standing.CLEAN  # nothing has to come across
        is_doubtful = prefill in self.doubtful or decode in self.doubtful
        return Standing.DOUBTFUL if is_doubtful else Standing.CLEAN


NO_BLAME = Blame()

"""The prompt that the samples of one call have in common: one of them has it computed, the others
join it at the decode worker that has its KV then.

    unknown ──turn──▶ one leads ──held_by──▶ held: all others join
       ▲                  │                    │
       └──── left ────────┘                    └──separate──▶ each has it computed itself
"""

from lengthwise_policy.types import WorkerId
from lengthwise_router.serving.deadline import RequestDeadline
from lengthwise_router.workers.wakeup import Wakeup


class SharedPrompt:
    """Samples are known by their deadlines, which is what they wait with."""

    def __init__(self) -> None:
        self.holder: WorkerId | None = None
        self.held_tokens = 0
        """In whole blocks at the holder, and not the last token."""
        self._leader: RequestDeadline | None = None
        self._is_separate = False
        self._waiting: set[Wakeup] = set()

    async def turn(self, deadline: RequestDeadline) -> WorkerId | None:
        """Where the prompt's KV is, once that is known; None: this sample is to have it computed.

        Errors: DeadlineExceeded.
        """
        try:
            while self._leader not in (None, deadline) and not self.is_decided:
                self._waiting.add(deadline.wakeup)
                deadline.reason = "waits for the prompt, which another sample has computed"
                await deadline.wait()
        finally:
            self._waiting.discard(deadline.wakeup)
        if not self.is_decided:
            self._leader = deadline
        return self.holder

    @property
    def is_decided(self) -> bool:
        """Whether no sample waits for another any more."""
        return self._is_separate or self.holder is not None

    def held_by(self, worker_id: WorkerId, num_tokens: int) -> None:
        """A decode worker has the KV of the prompt's full blocks; the first one counts."""
        if not self.is_decided:
            self.holder, self.held_tokens = worker_id, num_tokens
            self._notify()

    def separate(self) -> None:
        """The samples have nothing in common any more: the holder cannot take them, or none needs
        one."""
        self.holder, self.held_tokens, self._is_separate = None, 0, True
        self._notify()

    def left(self, deadline: RequestDeadline) -> None:
        """A sample is over. If it led and no decode worker has the prompt, the next one leads."""
        if self._leader is deadline:
            self._leader = None
            self._notify()

    def _notify(self) -> None:
        for wakeup in self._waiting:
            wakeup.ring()
